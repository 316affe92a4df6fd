"""Unit: the jobs of a map on their way, without a worker."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkrpc import ClosedError, jobs
from forkrpc.jobs import Jobs
from forkrpc.loading import Failure
from forkrpc.making import LARGE, Inbox
from forkrpc.source import source_of
from worklike import Feedlike

END = object()


def start(feed, given, *, chunksize=None, ordered=True, bar=None):
    source = source_of((given,), starred=False)
    return Jobs(feed, source, Inbox(), chunksize=chunksize, ordered=ordered, bar=bar)


def results_of(made):
    """Take what is in `parts`."""
    found = []
    while made.parts:
        part = made.parts.popleft()
        found += part if isinstance(part, list) else []
    return found


def double(number):
    return 2 * number


def test_as_many_jobs_are_under_way_as_keep_the_workers_busy():
    for workers in (1, 3):
        feed = Feedlike(double, workers)
        made = start(feed, itertools.count(), chunksize=5)

        assert not made.step(END)
        assert len(feed.queued) == jobs.UNDER_WAY * workers
        assert not made.step(END)
        assert len(feed.queued) == jobs.UNDER_WAY * workers


@pytest.mark.parametrize("workers", [1, 3])
def test_while_chunks_grow_each_worker_has_one(workers, monkeypatch):
    monkeypatch.setattr(jobs, "SLOW", math.inf)  # however busy the machine is
    feed = Feedlike(double, workers)
    made = start(feed, itertools.count())

    assert not made.step(END)
    assert len(feed.queued) == workers
    made._pacing.note(1000, 1e-3)
    assert not made.step(END)
    assert len(feed.queued) == jobs.UNDER_WAY * workers


def test_long_items_are_calls_of_their_own_and_as_many(monkeypatch):
    monkeypatch.setattr(jobs, "SLOW", math.inf)
    feed = Feedlike(len)
    made = start(feed, [bytearray(2 * LARGE)] * 9)

    assert not made.step(END)
    assert len(feed.queued) == 1
    feed.answer()
    made.step(END)
    assert results_of(made) == [2 * LARGE]
    assert not made.step(END)
    assert len(feed.queued) == jobs.UNDER_WAY


def test_results_are_handed_over_in_order():
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=5)
    made.step(END)
    feed.answer(1)
    assert not made.step(END)
    feed.answer(0)

    assert made.step(END)
    assert made.parts[-1] is END
    assert results_of(made) == list(range(0, 20, 2))


def test_results_are_handed_over_as_they_are_completed():
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=2, ordered=False)
    made.step(END)
    feed.answer(1)

    assert made.step(END)
    assert results_of(made) == [4, 6]


def test_no_more_is_taken_while_too_much_waits_for_its_turn():
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=2)
    made.step(END)
    while len(feed.queued) > 1:
        feed.answer(1)
        assert not made.step(END)

    assert made._making.taken == 2 * jobs.AHEAD


def test_an_outcome_that_comes_twice_counts_once():
    feed = Feedlike(double)
    made = start(feed, [1, 2], chunksize=5)
    made.step(END)
    job = feed.answer()
    job.settle(Failure(ValueError()))

    assert made.step(END)
    assert results_of(made) == [2, 4]
    assert made.step(END)
    assert made.over
    assert made.failure is None


@pytest.mark.parametrize("ordered", [True, False])
def test_a_failure_cancels_the_rest(ordered):
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=5, ordered=ordered)
    made.step(END)
    _, job = feed.queued[0]
    job.settle(Failure(ValueError("lost")))

    assert made.step(END)
    assert made.over
    assert results_of(made) == []
    assert str(made.failure.error) == "lost"
    assert feed.cancelled == [job for _, job in feed.queued][1:]


def test_closing_cancels_what_has_no_answer_and_drops_what_has():
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=5)
    made.step(END)
    feed.answer()
    made.step(END)
    (_, taken, _) = made.parts
    made.close()
    waiting = [job for _, job in feed.queued]

    assert list(made.parts) == [None]
    assert taken == []
    assert feed.cancelled == waiting
    for job in waiting:
        job.settle(1)
    assert made.over


def test_dropping_it_stops_it_in_the_reactors_thread():
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=5)
    made.step(END)
    made.dropped()
    assert feed.cancelled == []
    (stop,) = feed.soon
    stop()

    assert len(feed.cancelled) == jobs.UNDER_WAY
    made.dropped()
    assert len(feed.soon) == 1


def test_a_feed_that_takes_no_more_is_told_behind_what_it_took():
    feed = Feedlike(double)
    made = start(feed, itertools.count(), chunksize=1)
    made.step(END)
    feed.closed = True
    while feed.queued:
        feed.answer()
    found = []
    while made.step(END) and not made.over:
        found += results_of(made)

    assert found == [0, 2]
    assert isinstance(made.failure.error, ClosedError)


def test_single_calls_are_as_many_as_are_quick(monkeypatch):
    monkeypatch.setattr(jobs, "SLOW", math.inf)  # however busy the machine is
    feed = Feedlike(double, chunked=False)
    made = start(feed, itertools.count())
    made.step(END)
    assert len(feed.queued) == 2
    made._pacing.note(1000, 1e-4)
    made.step(END)

    assert len(feed.queued) > 2  # more or less, as busy as the machine is


def test_an_asynchronous_worker_has_as_many_as_it_takes():
    feed = Feedlike(double, chunked=False, most=7)
    made = start(feed, itertools.count())
    made.step(END)

    assert len(feed.queued) == 7


def test_a_bar_is_told_of_what_comes_and_closed():
    told = []

    class Bar:
        update = staticmethod(told.append)
        close = staticmethod(lambda: told.append("closed"))

    feed = Feedlike(double)
    made = start(feed, range(7), chunksize=5, bar=Bar)
    made.step(END)
    feed.answer()
    feed.answer()
    while not made.over:
        made.step(END)
        results_of(made)
    made.stop()

    assert told == [7, "closed"]


def test_it_tells_its_state():
    feed = Feedlike(double)
    made = start(feed, [1])
    assert str(made) == "a map of m.f, open"
    made.close()
    assert str(made) == "a map of m.f, ended"
    made.failure = Failure(ValueError())
    assert str(made) == "a map of m.f, failed"


@given(
    st.integers(0, 60),
    st.one_of(st.none(), st.integers(1, 9)),
    st.booleans(),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(0, 60)),
    st.lists(st.integers(0, 999), min_size=1),
)
def test_any_order_of_answers(count, chunksize, ordered, workers, bad, places):
    def function(number):
        if number == bad:
            raise KeyError(number)
        return number

    feed = Feedlike(function, workers)
    made = start(feed, range(count), chunksize=chunksize, ordered=ordered)
    found, turns = [], itertools.cycle(places)
    while not made.over:
        if made.step(END):
            found += results_of(made)
        else:
            place = next(turns) % len(feed.queued)
            if chunksize == 1 and feed.queued[place][0] == bad:
                feed.queued[place][1].settle(Failure(KeyError(bad)))
                del feed.queued[place]
            else:
                feed.answer(place)
    found += results_of(made)

    fails = bad is not None and bad < count
    assert (made.failure is not None) is fails
    if ordered:
        assert found == list(range(bad if fails else count))
    elif not fails:
        assert sorted(found) == list(range(count))
    assert len(set(found)) == len(found)
