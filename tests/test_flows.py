"""End-to-end: streams of a pool, on whichever worker they are (also: see test_pool)."""

import os
import signal
import threading

import pytest

from forkrpc import WorkerDied
from helpers import wait_until
from shared import shared_template

LIMIT = 20.0  # seconds; much more than it takes


def numbers(most):
    yield os.getpid()
    yield from range(most)


@pytest.fixture(scope="module")
def template():
    with shared_template(__name__) as template:
        yield template


def test_several_streams_come_from_several_workers(template):
    with template.pool(numbers, max=3, load=1, start=0) as pool:
        streams = [pool.stream(1000) for _ in range(3)]
        pids = {next(each) for each in streams}
        assert len(pids) == 3
        for stream in streams:
            assert list(stream) == list(range(1000))


def test_no_call_waits_behind_a_stream_while_a_worker_is_free(template):
    with template.pool(numbers, max=3, load=8, start=0) as pool:
        streams = [pool.stream(10**9) for _ in range(2)]
        assert len({next(each) for each in streams}) == 2
        futures = [pool.submit(1) for _ in range(20)]
        for future in futures:
            with pytest.raises(TypeError, match="generator function"):
                future.result(LIMIT)
        for stream in streams:
            stream.close()
        assert len(pool.pids) == 3


def test_a_worker_that_has_made_a_stream_is_given_calls_again(template):
    with template.pool(numbers, max=1, load=8) as pool:
        streams = [pool.stream(3) for _ in range(10)]
        assert [list(stream)[1:] for stream in streams] == [[0, 1, 2]] * 10


def test_an_async_worker_makes_several_streams_at_once(template):
    with template.pool(numbers, max=1, load=3, backend="async") as pool:
        streams = [pool.stream(10**9) for _ in range(3)]
        assert len({next(each) for each in streams}) == 1
        assert len(pool.pids) == 1
        for stream in streams:
            stream.close()


def test_a_death_ends_the_streams_of_that_worker_only(template):
    quiet = {"on_error": lambda _: None}
    with template.pool(numbers, max=2, load=1, start=0, **quiet) as pool:
        lost, kept = pool.stream(10**9), pool.stream(1000)
        os.kill(next(lost), signal.SIGKILL)
        with pytest.raises(WorkerDied):
            list(lost)
        next(kept)
        assert list(kept) == list(range(1000))


def test_leaving_the_pool_closes_streams_that_nobody_takes(template):
    with template.pool(numbers, max=1, load=1) as pool:
        open_one, queued = pool.stream(10**9), pool.stream(10**9)
        next(open_one)
        assert pool.stats()["queued"] == 1
        queued.close()
    assert pool.returncode == 0


def test_a_thread_that_waits_for_a_queued_stream_is_woken(template):
    with template.pool(numbers, max=1, load=1) as pool:
        first = pool.stream(10**9)
        next(first)
        found = []
        thread = threading.Thread(target=lambda: found.extend(pool.stream(3)))
        thread.start()
        wait_until(lambda: pool.stats()["queued"] == 1, LIMIT)
        first.close()
        thread.join(LIMIT)
        assert found[1:] == [0, 1, 2]


def test_waiting_in_the_callbacks_thread_is_refused(template):
    with template.pool(numbers, max=1) as pool:
        raised = []

        def callback(_):
            try:
                pool._connection.flow.check_may_wait("this")
            except RuntimeError as error:
                raised.append(str(error))

        pool.submit(1).add_done_callback(callback)
        wait_until(lambda: raised, LIMIT)
        pool._connection.flow.check_may_wait("this")
    assert raised[0].startswith("this would wait for ever")
