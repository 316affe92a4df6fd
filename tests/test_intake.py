"""End-to-end: calls that come into a pool, from threads and loops, and wait there."""

import asyncio
import contextlib
import os
import signal
import threading
import time
import traceback
from _queue import SimpleQueue

import pytest

from forkrpc import ClosedError, Forker, WorkerDied
from helpers import run_program, wait_until

LIMIT = 20.0  # seconds; much more than it takes


class Point:
    def __init__(self, x):
        self.x = x


def shifted(point):
    return Point(point.x + 1)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


@pytest.fixture(scope="module")
def template():
    with Forker(name="test_intake").require(__name__) as template:
        template.ready(LIMIT)
        yield template


def test_a_waiting_thread_is_let_go_when_the_pool_is_killed(template):
    pool = template.pool(sleep, max=1, load=1, queue_limit=1)
    pool.submit(600)
    wait_until(lambda: pool.stats()["busy"] == 1, LIMIT)
    pool.submit(600)
    errors = []

    def wait():
        try:
            pool.submit(600)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: pool._connection._sleepers, LIMIT)
    pool.kill()
    thread.join(LIMIT)
    assert "the pool was killed" in str(errors[0])
    assert pool.join(LIMIT)


def test_a_class_of_the_program_reaches_every_worker():
    source = """
    from forkrpc import Forker

    class Point:
        def __init__(self, x):
            self.x = x

    def shifted(point):
        return Point(point.x + 1)

    options = {"max": 3, "load": 1, "start": 0}
    template = Forker().require(__name__)
    with template, template.pool(shifted, **options) as pool:
        futures = [pool.submit(Point(1)) for _ in range(30)]
        points = [each.result(20) for each in futures]
        print({type(point) is Point for point in points}, sum(p.x for p in points))
    """
    assert run_program(source).stdout.split() == ["{True}", "60"]


def test_a_cancelled_task_withdraws_its_call(template):
    async def main():
        async with template.pool(sleep, max=1, load=1) as pool:
            running = asyncio.create_task(pool.acall(0.3))
            await asyncio.sleep(0.05)
            queued = asyncio.create_task(pool.acall(600))
            await asyncio.sleep(0.05)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            assert pool.pending == 1
            assert await running == 0.3

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_threads_and_loops_share_a_pool(template):
    def call():
        assert [pool.call(0) for _ in range(50)] == [0] * 50
        done.append(True)

    async def main():
        return await asyncio.gather(*(pool.acall(0) for _ in range(200)))

    done = []
    with template.pool(sleep, max=2, load=2) as pool:
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert asyncio.run(asyncio.wait_for(main(), LIMIT)) == [0] * 200
        for thread in threads:
            thread.join(LIMIT)
        assert len(done) == 4


def test_it_is_inert_in_a_forked_copy(template):
    with template.pool(sleep, max=1) as pool:
        pool.call(0)
        pid = os.fork()
        if not pid:
            try:
                pool.call(0)
            except RuntimeError as error:
                os._exit(0 if "was forked" in str(error) else 2)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pool.call(0) == 0


def fill(pool):
    """Give a pool of one worker a call that hangs, and one that waits."""
    futures = [pool.submit(600)]
    wait_until(lambda: pool.stats()["busy"] == 1, LIMIT)
    return [*futures, pool.submit(600)]


@pytest.mark.parametrize("verb", ["submit", "call"])
def test_who_waits_for_room_is_told_that_the_pool_was_closed(template, verb):
    errors = []

    def wait():
        try:
            getattr(pool, verb)(0)
        except ClosedError as error:
            errors.append(error)

    pool = template.pool(sleep, max=1, load=1, queue_limit=1)
    fill(pool)
    threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(pool._connection._sleepers) == 4, LIMIT)
    pool.close()
    for thread in threads:
        thread.join(LIMIT)
    assert len(errors) == 4
    pool.kill()
    assert pool.join(LIMIT)


def test_who_gave_up_to_wait_for_room_takes_it_from_nobody(template):
    async def main():
        pool = template.pool(sleep, max=1, load=1, queue_limit=1)
        running, queued = fill(pool)
        tasks = [asyncio.create_task(pool.acall(0)) for _ in range(201)]
        while len(pool._connection._sleepers) < 201:
            await asyncio.sleep(0.001)
        for task in tasks[:200]:
            task.cancel()
        await asyncio.wait(tasks[:200])
        assert queued.cancel()
        assert pool.cancel(running, kill=True)
        assert await tasks[200] == 0
        pool.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_callback_never_waits_for_room(template):
    results = SimpleQueue()
    with template.pool(sleep, max=1, load=1, queue_limit=1) as pool:
        running, _ = fill(pool)
        pool.with_options(timeout=LIMIT)(0, results.put)
        pool(0, results.put)
        pool.kill()


def test_a_call_that_has_just_failed_cannot_be_cancelled(template):
    """Else one call less would be counted, for ever."""

    async def main():
        pool = template.pool(sleep, max=1, load=1)
        fill(pool)
        tasks = [asyncio.create_task(pool.acall(600)) for _ in range(5)]
        while pool.pending < 7:
            await asyncio.sleep(0)
        pool.kill()
        assert pool.join(LIMIT)  # the loop has no turn
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert pool.pending == 0

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_nothing_hangs_in_a_forked_copy_and_nothing_is_written(template):
    with template.pool(sleep, max=1, load=1) as pool:
        _, queued = fill(pool)
        with pool._connection.lock:  # as another thread may hold it
            pid = os.fork()
            if not pid:
                signal.alarm(int(LIMIT))
                reused = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
                try:
                    assert not queued.cancel()
                    assert not pool.cancel(queued, kill=True)
                    assert "ended" in repr(pool)
                    pool.kill()
                    pool.close()
                    assert pool.join(LIMIT)
                    with contextlib.suppress(ClosedError):
                        pool.drain()
                        os._exit(2)
                    del pool
                except BaseException:
                    traceback.print_exc()
                    os._exit(3)
                os._exit(0 if reused else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        pool.kill()


def test_a_call_in_a_signal_handler_that_would_wait_for_ever_is_refused(template):
    raised = []

    def handler(*_):
        try:
            pool.call(0)
        except RuntimeError as error:
            raised.append(error)

    with template.pool(sleep, max=1, load=1) as pool:
        pool.call(0)
        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            assert pool.call(0.5) == 0.5
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert "would wait for ever" in str(raised[0])


def test_a_call_is_refused_by_what_no_worker_has_begun(template):
    pool = template.pool("faulty.do", max=1, on_error=lambda _: None)
    for _ in range(3):
        with pytest.raises(WorkerDied):
            pool.call("hard-exit")
    error = pool.submit("hard-exit").exception(LIMIT)
    assert isinstance(error, WorkerDied)
    assert error.started is False
    pool.close()
    assert pool.join(LIMIT)
