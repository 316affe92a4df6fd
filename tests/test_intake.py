"""End-to-end: calls that come into a pool, from threads and loops, and wait there."""

import asyncio
import os
import threading
import time

import pytest

from forkrpc import Forker
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
    with Forker(name="test_intake") as template:
        template.ready(LIMIT)
        yield template


def test_a_waiting_thread_is_let_go_when_the_pool_is_killed(template):
    pool = template.pool(sleep, max=1, load=1, queue_limit=1)
    pool.submit(600)
    wait_until(lambda: pool.stats()["busy"] == 1, LIMIT)
    pool.submit(600)
    thread = threading.Thread(target=lambda: pool.submit(600), daemon=True)
    thread.start()
    wait_until(lambda: pool._connection._sleepers, LIMIT)
    pool.kill()
    thread.join(LIMIT)
    assert not thread.is_alive()
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
    with Forker() as template, template.pool(shifted, **options) as pool:
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
