"""Unit: steps that belong together."""

import os
import signal
from collections import deque
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import atomic
from helpers import MS
from interrupts import Interrupt, interrupt_everywhere


def test_steps_that_are_executed_at_once_are_not_torn_by_a_signal_handler():
    done = []

    def handler(_number, _frame):
        done.append("handler")
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Interrupt):
            atomic.at_once(
                partial(done.append, "first"),
                partial(signal.setitimer, signal.ITIMER_REAL, MS / 10),
                partial(sum, range(2_000_000)),  # the signal arrives meanwhile
                partial(done.append, "last"),
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert done == ["first", "last", "handler"]


def test_steps_are_executed_in_order():
    done = []

    atomic.at_once(*(partial(done.append, number) for number in range(5)))

    assert done == [0, 1, 2, 3, 4]


def test_no_step_is_executed_after_one_that_raises():
    done = []

    with pytest.raises(FileNotFoundError):
        atomic.at_once(
            partial(done.append, 1),
            partial(os.stat, "/no such file"),
            partial(done.append, 2),
        )

    assert done == [1]


@given(st.lists(st.integers(), max_size=20), st.data())
def test_items_are_dropped_from_the_left_in_one_step(items, data):
    count = data.draw(st.integers(0, len(items)))
    queue = deque(items)
    taken = []

    atomic.together(
        (taken.append, taken.extend, atomic.drop),
        (None, atomic.leftmost(queue, count), atomic.leftmost(queue, 0)),
    )

    assert taken == [None, *items[:count]]
    assert list(queue) == items[count:]


def test_python_3_10_does_as_much_in_one_step(monkeypatch):
    monkeypatch.setattr(atomic, "_apply", None)
    queue, taken = deque([1, 2, 3]), []

    atomic.together((taken.append, taken.extend), (0, atomic.leftmost(queue, 2)))

    assert taken == [0, 1, 2]
    assert list(queue) == [3]


@pytest.mark.parametrize("count", [0, 2, 3, 9])
def test_the_oldest_are_found_whenever_another_thread_appends(count):
    queue = deque()

    def attempt(append):
        queue.clear()
        queue.extend([1, 2, 3])
        with append as appended:
            found = atomic.oldest(queue, count)
        assert found in ([1, 2, 3][:count], [1, 2, 3, 4][:count])
        assert list(queue) == [1, 2, 3, *[4 for _ in appended]]
        return appended

    append = partial(queue.append, 4)
    assert interrupt_everywhere(attempt, atomic, append) > 5


def test_steps_without_arguments_are_done_among_the_others():
    done = []
    steps = [partial(done.append, number) for number in (1, 2)]

    atomic.together(
        (done.append, atomic.drop, done.append), (0, atomic.doing(steps), 3)
    )

    assert done == [0, 1, 2, 3]
