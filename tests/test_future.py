"""Unit: the future of one call: waiting, settling, callbacks, interrupts."""

import concurrent.futures
import contextlib
import threading

import pytest

from forkrpc import future as future_module
from forkrpc import program
from forkrpc.awaiter import CANCELLED
from forkrpc.future import CallFuture
from forkrpc.loading import Failure
from helpers import MS, wait_until
from interrupts import Interrupt, interrupt_everywhere, storm_of_interrupts

LIMIT = 10.0  # seconds; much more than it takes


@pytest.fixture(scope="module")
def owner():
    owner = program.current()
    owner.reactor.start()
    return owner


@pytest.fixture
def future(owner):
    return CallFuture(owner)


def settle(future, outcome):
    """Settle it where answers are read."""
    future._program.reactor.soon(lambda: future.settle(outcome))


@contextlib.contextmanager
def held(future):
    """Another thread holds the lock of *future*, as if interrupted behind taking it."""
    holding, go = threading.Event(), threading.Event()

    def hold():
        with future._condition:
            holding.set()
            go.wait(LIMIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(LIMIT)
    try:
        yield
    finally:
        go.set()
        thread.join(LIMIT)


# Results.


def test_the_result_is_returned(future):
    settle(future, 42)

    assert future.result(LIMIT) == 42
    assert future.exception() is None
    assert future.done()


def test_the_exception_is_raised_and_returned(future):
    error = ValueError("text")
    settle(future, Failure(error))

    with pytest.raises(ValueError, match="text") as raised:
        future.result(LIMIT)
    assert raised.value is error
    assert future.exception() is error


def test_an_exception_may_be_a_result(future):
    error = ValueError()
    settle(future, error)

    assert future.result(LIMIT) is error


@pytest.mark.parametrize("timeout", [0, 1 * MS, -1])
@pytest.mark.parametrize("verb", ["result", "exception"])
def test_waiting_ends_at_the_timeout_with_the_standard_error(future, verb, timeout):
    with pytest.raises(concurrent.futures.TimeoutError) as raised:
        getattr(future, verb)(timeout)

    assert raised.value.__context__ is None
    assert not future.done()


def test_a_timeout_of_0_is_enough_for_what_is_there(future):
    future.settle(42)

    assert future.result(0) == 42


def test_it_runs_from_being_sent_to_its_outcome(future):
    assert not future.running()
    future.call_id = 7
    assert future.running()
    settle(future, 42)
    assert future.result(LIMIT) == 42
    assert not future.running()


# Cancelling.


def cancellable(owner, *, yes=True):
    """Return a future, and what its connection is asked to cancel."""
    asked = []

    def cancel(target):
        asked.append(target)
        return yes

    return CallFuture(owner, cancel), asked


def test_a_call_that_the_connection_does_not_cancel_goes_on(owner):
    future, asked = cancellable(owner, yes=False)

    assert future.cancel() is False
    assert asked == [future]
    assert not future.cancelled()
    settle(future, 42)
    assert future.result(LIMIT) == 42
    assert future.cancel() is False
    assert asked == [future]


def test_a_cancelled_call_is_settled_at_once_and_once(owner):
    future, asked = cancellable(owner)
    told = []
    future.add_done_callback(told.append)

    assert future.cancel() is True
    assert future.cancelled()
    assert future.done()
    assert not future.running()
    assert told == [future]
    assert future.cancel() is True
    for outcome in (CANCELLED, 42, Failure(ValueError())):
        future.settle(outcome)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception(0)
    assert told == [future]
    assert asked == [future]


def test_who_waits_for_several_futures_sees_that_one_was_cancelled(owner):
    future, _ = cancellable(owner)
    other, _ = cancellable(owner)
    found = []

    def wait():
        found.append(concurrent.futures.wait([future, other], LIMIT))
        found.append(list(concurrent.futures.as_completed([future, other], LIMIT)))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: future._waiters, LIMIT)
    future.cancel()
    settle(other, 1)
    thread.join(LIMIT)

    done, waiting = found[0]
    assert done == {future, other}
    assert not waiting
    assert set(found[1]) == {future, other}


def test_a_thread_that_waits_wakes_up_when_it_is_cancelled(owner):
    future, _ = cancellable(owner)
    told = []

    def wait():
        try:
            future.result(LIMIT)
        except concurrent.futures.CancelledError as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: future._condition.sleepers, LIMIT)
    future.cancel()
    thread.join(LIMIT)

    assert len(told) == 1


def test_an_interrupted_cancel_is_finished_by_the_reactor(owner):
    def attempt(interrupted):
        future, asked = cancellable(owner)
        with contextlib.suppress(Interrupt), interrupted as raised:
            future.cancel()
        if asked:  # from here on the connection settles it as well
            future.settle(CANCELLED)
            assert future.cancelled()
            done, _ = concurrent.futures.wait([future], 0)
            assert done == {future}
        return raised

    assert interrupt_everywhere(attempt, future_module) > 20


def test_the_first_outcome_counts(future):
    future.settle(1)
    future.settle(2)

    assert future.result() == 1


@pytest.mark.parametrize("verb", ["result", "exception"])
def test_waiting_where_answers_are_read_is_an_error_at_once(owner, verb):
    future, told = CallFuture(owner), []

    def wait():
        try:
            getattr(future, verb)()
        except RuntimeError as error:
            told.append(str(error))

    owner.reactor.soon(wait)
    wait_until(lambda: told)

    assert f"Future.{verb}() would wait for ever" in told[0]


def test_what_is_there_may_be_asked_for_anywhere(owner):
    future, told = CallFuture(owner), []
    future.settle(42)

    owner.reactor.soon(lambda: told.append(future.result()))
    wait_until(lambda: told)

    assert told == [42]


def test_all_threads_that_wait_get_the_result(future):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(future.result(LIMIT)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(future._condition.sleepers) == 5)
    settle(future, 42)
    for thread in threads:
        thread.join(LIMIT)

    assert results == [42] * 5


def test_a_result_that_comes_while_one_begins_to_wait_is_seen(owner):
    for number in range(200):
        future = CallFuture(owner)
        settle(future, number)
        assert future.result(LIMIT) == number


# As the standard library uses it.


def test_the_standard_wait_sees_it(owner):
    one, two = CallFuture(owner), CallFuture(owner)
    settle(one, 1)

    done, _ = concurrent.futures.wait([one, two], LIMIT, "FIRST_COMPLETED")
    assert done == {one}
    settle(two, 2)
    done, left = concurrent.futures.wait([one, two], LIMIT)
    assert (done, left) == ({one, two}, set())


def test_the_standard_wait_ends_at_the_first_exception(owner):
    one, two = CallFuture(owner), CallFuture(owner)
    settle(one, Failure(ValueError()))

    done, left = concurrent.futures.wait([one, two], LIMIT, "FIRST_EXCEPTION")

    assert (done, left) == ({one}, {two})


def test_the_standard_as_completed_yields_it(owner):
    futures = [CallFuture(owner) for _ in range(10)]
    for number, future in enumerate(futures):
        settle(future, number)

    completed = list(concurrent.futures.as_completed(futures, LIMIT))

    assert sorted(future.result() for future in completed) == list(range(10))


def test_a_callback_is_called_with_the_future_where_answers_are_read(future):
    told, done = [], threading.Event()
    future.add_done_callback(
        lambda future: told.append((future.result(), threading.get_ident()))
    )
    future.add_done_callback(lambda _: done.set())

    settle(future, 42)

    assert done.wait(LIMIT)
    assert told == [(42, future._program.reactor.ident)]


def test_a_callback_added_later_is_called_at_once(future):
    future.settle(42)
    told = []

    future.add_done_callback(told.append)

    assert told == [future]


# A lock that another thread holds.


def test_a_lock_held_by_another_thread_delays_that_future_only(owner):
    stuck, other = CallFuture(owner), CallFuture(owner)

    with held(stuck):
        settle(stuck, 1)
        settle(other, 2)
        assert other.result(LIMIT) == 2
        assert not stuck._result

    assert stuck.result(LIMIT) == 1


def test_waiting_takes_no_lock(future):
    with held(future):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(0)


# Interrupts.


def test_an_interrupt_anywhere_in_waiting_leaves_the_future_usable(owner):
    def attempt(interrupt):
        future = CallFuture(owner)
        with interrupt as raised:
            try:
                future.result(0)
            except (Interrupt, concurrent.futures.TimeoutError):
                pass
        settle(future, 42)
        assert future.result(LIMIT) == 42
        return raised

    assert interrupt_everywhere(attempt, future_module) > 10


def test_an_interrupt_anywhere_in_taking_the_result_leaves_it_there(owner):
    def attempt(interrupt):
        future = CallFuture(owner)
        future.settle(42)
        with interrupt as raised:
            try:
                assert future.result() == 42
            except Interrupt:
                pass
        assert future.result() == 42
        return raised

    assert interrupt_everywhere(attempt, future_module) > 10


def test_a_storm_of_interrupts_loses_no_result(owner):
    future = CallFuture(owner)
    owner.reactor.later(50 * MS, lambda: future.settle(42))
    result = None

    with storm_of_interrupts(future_module):
        while result is None:
            try:
                result = future.result(LIMIT)
            except Interrupt:
                continue

    assert result == 42
