"""Unit: targets of calls that have a limit of their own."""

from collections import deque

from forkrpc.awaiter import Awaiter
from forkrpc.limits import Limited, LimitedCallback, LimitedQueue, limit_of
from forkrpc.session import Session


def session_with(*targets):
    session = Session("m.f", 100)
    session.pending = deque(targets)
    session.last.append(len(targets))
    return session


def test_a_limited_callback_is_called_with_the_result():
    results = []
    callback = LimitedCallback(results.append, 2.5)

    callback(7)

    assert results == [7]
    assert callback.limit == 2.5


def test_a_limited_queue_is_a_queue():
    queue = LimitedQueue(2.5)

    queue.put(1)

    assert queue.get() == 1
    assert queue.limit == 2.5


def test_an_awaiter_has_no_limit_until_it_is_given_one():
    assert isinstance(Awaiter(), Limited)
    assert Awaiter().limit is None


def test_the_limit_of_the_call_that_runs_is_its_targets():
    session = session_with(LimitedQueue(2.5), LimitedQueue(1.0))

    assert limit_of(session, 1) == 2.5
    assert limit_of(session, 2) is None  # it waits
    session.pending.popleft()
    assert limit_of(session, 2) == 1.0
    assert limit_of(session, 1) is None  # it has an answer


def test_a_callback_of_the_user_has_no_limit_whatever_its_attributes():
    def callback(result):
        raise AssertionError(result)

    callback.limit = 0.001

    assert limit_of(session_with(callback), 1) is None


def test_without_calls_there_is_no_limit():
    assert limit_of(session_with(), 1) is None
