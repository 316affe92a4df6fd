"""Unit: who stands for a call that may be made again (the rest: see test_pool)."""

from _queue import SimpleQueue

from forkrpc.awaiter import Awaiter
from forkrpc.items import Items
from forkrpc.retrying import RetryingCallback, retrying, tries_of


class Future(Awaiter):
    limit = 2.0

    def settle(self, outcome):
        self.outcome = outcome


def test_an_awaiter_is_told_through_what_stands_for_it():
    future = Future()
    made = retrying(future, 2)

    assert future.stand_in is made
    assert (made.tries, made.limit) == (2, 2.0)
    made.settle("outcome")
    assert future.outcome == "outcome"


def test_what_stands_for_it_is_not_wrapped_again():
    future = Future()
    made = retrying(retrying(future, 2), 1)

    assert made.inner is future
    assert future.stand_in is made
    assert tries_of(made, 5) == 1


def test_a_thread_that_waits_is_told():
    queue = SimpleQueue()
    retrying(queue, 1).settle("outcome")

    assert queue.get_nowait() == "outcome"


def test_a_callback_stays_one_so_that_it_keeps_its_turn():
    seen = []
    made = retrying(seen.append, 1)

    assert isinstance(made, RetryingCallback)
    made("result")
    assert seen == ["result"]


def test_a_stream_is_not_made_again():
    assert tries_of(Items(), 5) == 0


def test_what_says_nothing_has_the_usual_tries():
    assert tries_of(print, 5) == 5
