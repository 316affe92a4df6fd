"""Unit: making jobs of items."""

import threading

import pytest

from forkrpc import SerialiserError
from forkrpc.chunks import items_of
from forkrpc.entries import Chunk
from forkrpc.making import LARGE, Inbox, Job, Making
from forkrpc.source import source_of
from worklike import Feedlike


def making(given, *, chunked=True, starred=False, source=None):
    made = source or source_of((given,), starred=starred)
    return Making(Feedlike(), made, Inbox(), chunked=chunked)


def made_of(maker, count):
    """Make a job; return (first, count, alone), None if there was none."""
    maker.make(count)
    job = maker.made
    if job is None:
        return None
    maker.queued()()
    return job.first, job.count, job.alone


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("values", [range(7), [[n] for n in range(7)]])
def test_chunks_follow_one_another(kind, values):
    maker = making(kind(list(values)))

    assert made_of(maker, 3) == (0, 3, False)
    assert made_of(maker, 3) == (3, 3, False)
    assert not maker.used_up
    assert made_of(maker, 3) == (6, 1, False)
    assert made_of(maker, 3) is None
    assert maker.used_up
    assert maker.taken == 7


def test_plain_items_stand_in_the_call_as_they_are():
    maker = making([1, 2])
    maker.make(5)

    assert type(maker.made.call) is Chunk
    assert items_of(maker.made.call) == (False, True, [1, 2])
    assert maker.plain


def test_other_items_are_bodies():
    maker = making(iter([[1], 2]))
    maker.make(5)

    starred, plain, bodies = items_of(maker.made.call)
    assert (starred, plain, len(bodies)) == (True, False, 2)
    assert not maker.plain


def test_a_job_is_made_once_until_it_is_queued():
    maker = making([1, 2, 3, 4])
    maker.make(2)
    first = maker.made

    assert first is not None
    maker.queued()()
    assert maker.made is None


def test_without_chunks_each_item_is_a_call():
    maker = making([1, [2]], chunked=False)

    assert made_of(maker, 1) == (0, 1, True)
    assert made_of(maker, 1) == (1, 1, True)
    assert made_of(maker, 1) is None


@pytest.mark.parametrize("kind", [list, iter])
def test_a_long_item_is_a_call_of_its_own(kind):
    long, short = [b"x" * LARGE], [1]
    maker = making(kind([short, long, long, short, short]))

    alone = [made_of(maker, 1)[2] for _ in range(5)]

    assert alone == [False, True, True, True, False]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("place", [0, 1])
def test_an_item_that_cannot_be_sent_ends_it(chunked, place):
    given = [1, 1, 1]
    given[place] = threading.Lock()
    maker = making(given, chunked=chunked)

    counts = [made_of(maker, 1) for _ in range(4)]

    assert [each is not None for each in counts] == [n < place for n in range(4)]
    assert maker.used_up
    assert isinstance(maker._source.error, SerialiserError)


def test_ending_it_drops_what_there_is():
    maker = making([1, 2, 3])
    maker.make(1)
    maker.end()

    assert maker.made is None
    assert maker.used_up
    assert made_of(maker, 1) is None


def test_an_outcome_goes_where_it_was_asked_for_until_that_is_given_up():
    told = Inbox()
    job = Job(told, 1, 0, 1, alone=True)
    job.settle("one")
    job.inbox.append((job, "two"))
    job.forget()
    job.settle("three")
    job.inbox.append((job, "four"))

    assert [told.get(timeout=1) for _ in range(2)] == [(job, "one"), (job, "two")]
    assert told.empty()


def test_other_places_are_told_in_the_reactors_thread():
    told = []

    assert Job(told, 1, 0, 1, alone=True).inbox is None
