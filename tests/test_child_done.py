"""Unit: the done of one call: once, from any thread, or dropped."""

import gc
import threading

import pytest

from forkrpc.child.done import Done


class Told:
    def __init__(self):
        self.results, self.dropped = [], []
        self.done = Done("m.f", self.results.append, lambda: self.dropped.append(True))


def test_it_hands_on_one_result():
    told = Told()
    told.done(42)

    assert told.results == [42]
    with pytest.raises(RuntimeError, match=r"done\(\) of m.f was called before"):
        told.done(43)
    assert told.results == [42]


def test_without_an_argument_the_result_is_none():
    told = Told()
    told.done()

    assert told.results == [None]


def test_of_many_threads_one_hands_on_its_result():
    told, barrier, refused = Told(), threading.Barrier(8), []

    def call(number):
        barrier.wait()
        try:
            told.done(number)
        except RuntimeError:
            refused.append(number)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(told.results) == 1
    assert sorted(refused + told.results) == list(range(8))


def test_dropping_it_uncalled_is_told_and_called_is_not():
    told = Told()
    del told.done
    gc.collect()
    assert told.dropped == [True]

    called = Told()
    called.done(1)
    del called.done
    gc.collect()
    assert called.dropped == []


def test_it_shows_its_state():
    told = Told()
    assert repr(told.done) == "<done of m.f, not called>"
    told.done()
    assert repr(told.done) == "<done of m.f, called>"
