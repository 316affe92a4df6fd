"""End-to-end: how calls of items reach their workers."""

import os
from functools import partial

import pytest

import mapped
from forkrpc import ClosedError, WorkerDied
from forkrpc.awaiter import CANCELLED
from forkrpc.entries import Chunk, LimitedBody
from forkrpc.feed import AT_ONCE, Feed
from forkrpc.making import Inbox, Job

LIMIT = 20.0  # seconds for anything to happen; much more than it takes


@pytest.fixture(scope="module", autouse=True)
def _template():
    with mapped.shared():
        yield


@pytest.fixture
def marks(tmp_path):
    return str(tmp_path / "marks")


@pytest.fixture
def fifo(tmp_path):
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def job(told, call):
    return Job(told, call, 0, 1, alone=True)


def test_a_call_is_queued_together_with_what_belongs_to_it():
    with mapped.workers("double") as (feed, (proxy,)):
        told, done = Inbox(), []
        made = job(told, feed.call((4,)))
        feed.put(made.call, made, partial(done.append, 1), partial(done.append, 2))

        assert done == [1, 2]
        assert told.get(timeout=LIMIT) == (made, 8)
        assert proxy.pending == 0


def test_what_waits_for_a_call():
    with mapped.workers("double") as (feed, _):
        assert type(feed.chunk([1, 2], starred=False)) is Chunk
        assert feed.chunk([1, []], starred=False) is None
        assert type(feed.chunk_of([feed.body(([],))])) is Chunk
        assert (feed.name, feed.workers, feed.most) == ("mapped.double", 1, None)


@pytest.mark.parametrize(
    ("options", "chunked"),
    [
        ({}, True),
        ({"serialiser": "portable-pickle"}, True),
        ({"serialiser": "json"}, False),
        ({"timeout": 5}, False),
        ({"max_frame": 100_000}, False),
    ],
)
def test_items_share_calls_where_nobody_can_see_it(options, chunked):
    with mapped.workers("double", **options) as (feed, _):
        assert feed.chunked is chunked


def test_items_that_carry_context_variables_share_no_call():
    with mapped.workers("double", context=[mapped.VARIABLE]) as (feed, _):
        assert not feed.chunked


@pytest.mark.parametrize(("limit", "most"), [(None, AT_ONCE), (7, 7)])
def test_an_asynchronous_worker_has_as_many_calls_as_it_runs(limit, most):
    with mapped.workers("adouble", backend="async", limit=limit) as (feed, _):
        assert not feed.chunked
        assert feed.most == most


def test_a_limit_of_its_own_goes_with_each_call():
    with mapped.workers("double") as (_, (proxy,)):
        feed = Feed(proxy._connection, limit=LIMIT)
        made = job(Inbox(), feed.call((4,)))
        assert not feed.chunked
        assert type(made.call) is LimitedBody
        feed.put(made.call, made)

        assert made.limit == LIMIT
        assert made.told.get(timeout=LIMIT) == (made, 8)


def test_a_closed_worker_takes_nothing():
    with mapped.workers("double") as (feed, (proxy,)):
        made = job(Inbox(), feed.call((4,)))
        proxy.close()

        with pytest.raises(ClosedError):
            feed.put(made.call, made)
        assert made.told.empty()


def test_a_dead_worker_takes_nothing():
    with mapped.workers("fail", on_error=lambda _: None) as (feed, (proxy,)):
        with pytest.raises(WorkerDied):
            proxy.call(((0, "kill"), 0))
        assert proxy.join(LIMIT)

        with pytest.raises(WorkerDied):
            feed.check_open()


def test_a_call_that_was_not_sent_can_be_withdrawn(marks, fifo):
    with mapped.workers("mark_and_wait") as (feed, (proxy,)):
        told = Inbox()
        made = [job(told, feed.call((marks, fifo, number))) for number in range(9)]
        for each in made:
            feed.put(each.call, each)
        feed.cancel(made[-1])

        assert told.get(timeout=LIMIT) == (made[-1], CANCELLED)
        with mapped.opened(fifo):
            for number in range(8):
                assert told.get(timeout=LIMIT) == (made[number], number)
        assert proxy.pending == 0
