"""Unit: calls that are cancelled before they are sent, and who waits for them."""

from collections import deque

import pytest

from forkrpc import awaiter as awaiter_module
from forkrpc.awaiter import CANCELLED, Awaiter, Withdrawn, is_withdrawn, numbering
from interrupts import Interrupt, interrupt_everywhere


def queue_of(*targets):
    unsent = deque()
    for number, target in enumerate(targets):
        unsent.extend((number, target))
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
    assert list(unsent) == [0, target]


def test_a_call_that_was_sent_is_not_withdrawn():
    target = Awaiter()
    target.call_id = 7
    _, futures, withdrawn = queue_of()

    assert withdrawn.add(target) is False
    assert not is_withdrawn(target)
    assert not futures


def test_withdrawn_calls_are_dropped_from_among_those_about_to_leave():
    targets = [Awaiter() for _ in range(6)]
    unsent, _, withdrawn = queue_of(*targets)
    for at in (0, 1, 4):
        withdrawn.add(targets[at])
    staged = [unsent.popleft() for _ in range(8)]

    withdrawn.sift(staged)

    assert staged == [2, targets[2], 3, targets[3]]
    assert withdrawn.count == 1
    withdrawn.drop_one()
    assert list(unsent) == [5, targets[5]]
    assert withdrawn.count == 0


def test_where_all_were_withdrawn_nothing_is_left():
    targets = [Awaiter() for _ in range(3)]
    unsent, _, withdrawn = queue_of(*targets)
    for target in targets:
        withdrawn.add(target)
    staged = list(unsent)

    withdrawn.sift(staged)

    assert not staged
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
        unsent, futures, withdrawn = queue_of(target, print)
        staged = list(unsent)
        try:
            with interrupted as raised:
                withdrawn.add(target)
                withdrawn.sift(staged)
        except Interrupt:
            pass
        assert bool(futures) is target.withdrawn
        assert withdrawn.count == (target.withdrawn and target in staged)
        withdrawn.sift(staged)
        assert withdrawn.count == 0
        assert staged == [0, target, 1, print][2 * target.withdrawn :]
        return raised

    assert interrupt_everywhere(attempt, awaiter_module) > 20


def test_settling_is_for_those_who_derive():
    with pytest.raises(NotImplementedError):
        Awaiter().settle(1)
