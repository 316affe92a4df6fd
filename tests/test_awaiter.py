"""Unit: calls that are cancelled before they are sent, and who waits for them."""

from collections import deque

import pytest

from forkrpc import awaiter as awaiter_module
from forkrpc.awaiter import CANCELLED, Awaiter, Withdrawn, is_withdrawn, numbering
from interrupts import Interrupt, interrupt_everywhere


def queue_of(*targets):
    unsent = deque((number, target) for number, target in enumerate(targets))
    futures = deque()
    return unsent, futures, Withdrawn(unsent, futures)


def test_a_call_is_withdrawn_once_and_its_awaiter_is_to_be_told():
    target = Awaiter()
    unsent, futures, withdrawn = queue_of(target)

    assert withdrawn.add(target) is True
    assert withdrawn.add(target) is True
    assert withdrawn.count == 1
    assert is_withdrawn(target)
    assert list(futures) == [(target, CANCELLED)]
    assert len(unsent) == 1


def test_a_call_that_was_sent_is_not_withdrawn():
    target = Awaiter()
    target.call_id = 7
    _, futures, withdrawn = queue_of()

    assert withdrawn.add(target) is False
    assert not is_withdrawn(target)
    assert not futures


def test_withdrawn_calls_in_front_are_dropped_and_the_next_ones_counted():
    targets = [Awaiter() for _ in range(6)]
    unsent, _, withdrawn = queue_of(*targets)
    for at in (0, 1, 4):
        withdrawn.add(targets[at])

    assert withdrawn.drop(100) == 2
    assert [target for _, target in unsent] == targets[2:]
    assert withdrawn.count == 1
    assert withdrawn.drop(1) == 1
    unsent.popleft(), unsent.popleft()
    assert withdrawn.drop(100) == 1
    assert [target for _, target in unsent] == targets[5:]
    assert withdrawn.count == 0


def test_where_all_were_withdrawn_nothing_is_left():
    targets = [Awaiter() for _ in range(3)]
    unsent, _, withdrawn = queue_of(*targets)
    for target in targets:
        withdrawn.add(target)

    assert withdrawn.drop(100) == 0
    assert not unsent
    assert withdrawn.count == 0


@pytest.mark.parametrize("targets", [[print], [deque()], [None]])
def test_only_awaiters_are_numbered(targets):
    assert numbering(1, targets) == []
    assert not is_withdrawn(targets[0])


def test_awaiters_get_the_ids_of_their_calls():
    one, two = Awaiter(), Awaiter()
    for step in numbering(5, [print, one, deque(), two]):
        step()

    assert (one.call_id, two.call_id) == (6, 8)


def test_an_interrupt_leaves_a_call_withdrawn_or_not():
    def attempt(interrupted):
        target = Awaiter()
        _, futures, withdrawn = queue_of(target)
        try:
            with interrupted as raised:
                withdrawn.add(target)
                withdrawn.drop(10)
        except Interrupt:
            pass
        assert bool(futures) is target.withdrawn
        withdrawn.drop(10)
        assert withdrawn.count == 0
        return raised

    assert interrupt_everywhere(attempt, awaiter_module) > 20


def test_settling_is_for_those_who_derive():
    with pytest.raises(NotImplementedError):
        Awaiter().settle(1)
