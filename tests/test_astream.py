"""End-to-end: streams in asyncio programs, from workers of both backends."""

import asyncio
import copy
import gc

import pytest

from forkrpc import ClosedError, WorkerDied
from helpers import wait_until
from shared import shared_template

LIMIT = 20.0  # seconds for anything to happen; much more than it takes
SLOW = 1e-4  # seconds; items that take so long have no wide window
RUN = {"sync": "streamed.run", "async": "streamed.arun"}


@pytest.fixture(params=RUN)
def backend(request):
    return request.param


@pytest.fixture
def events():
    return []


@pytest.fixture(scope="module")
def template():
    with shared_template("asyncio", "streamed") as template:
        yield template


@pytest.fixture
def worker(template, backend, events):
    with template.run(
        RUN[backend],
        backend=backend,
        on_event=lambda *args: events.append(args),
        on_error=events.append,
    ) as proxy:
        yield proxy


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT))


async def all_of(stream):
    found = []
    try:
        async for item in stream:
            found.append(item)
    except Exception as error:
        return found, error
    return found, None


@pytest.mark.parametrize("count", [0, 1, 64, 65, 5000])
def test_all_items_come_in_order(worker, count):
    async def main():
        return await all_of(worker.astream("numbers", count))

    assert run(main()) == (list(range(count)), None)


def test_large_items_come_whole(worker):
    async def main():
        async for item in worker.astream("blocks", 20, 200_000):
            assert len(item) == 200_000

    run(main())


def test_an_exception_comes_behind_the_items_before_it(worker):
    async def main():
        stream = worker.astream("then", 10, "raise")
        found, error = await all_of(stream)
        assert found == list(range(10))
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match="on purpose"):
            await stream.__anext__()
        assert repr(stream).endswith(", failed>")
        assert await worker.acall("plain", 1) == 1

    run(main())


def test_a_death_fails_the_stream(worker):
    async def main():
        stream = worker.astream("numbers", 10**9)
        assert await stream.__anext__() == 0
        worker.kill()
        found, error = await all_of(stream)
        assert found == list(range(1, len(found) + 1))
        assert isinstance(error, WorkerDied)

    run(main())


def test_aclose_runs_the_generators_finally(worker, events):
    async def main():
        stream = worker.astream("endless")
        assert await stream.__anext__() == 0
        await stream.aclose()
        assert await all_of(stream) == ([], None)
        assert repr(stream).endswith(", closed>")

    run(main())
    wait_until(lambda: ("closed",) in events, LIMIT)


def test_leaving_its_with_and_break_run_the_generators_finally(worker, events):
    async def main():
        async with worker.astream("endless") as stream:
            async for item in stream:
                if item == 100:
                    break
        async for item in worker.astream("endless"):
            if item == 100:
                break

    run(main())
    gc.collect()
    wait_until(lambda: events.count(("closed",)) == 2, LIMIT)


def test_the_generator_is_at_most_a_window_ahead(worker, events):
    async def main():
        number = 0
        async for item in worker.astream("told", 300, SLOW):
            assert item == number
            assert len(events) <= number + 1 + 64
            number += 1
            if number % 50 == 0:
                await asyncio.sleep(0)

    run(main())


def test_many_streams_of_one_worker_go_on_at_once(worker, backend):
    if backend != "async":
        pytest.skip("a blocking worker makes one after the other")

    async def main():
        streams = [worker.astream("numbers", 500) for _ in range(20)]
        for number in range(500):
            for stream in streams:
                assert await stream.__anext__() == number
            if number % 100 == 0:
                assert await worker.acall("plain", number) == number
        for stream in streams:
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()

    run(main())


def test_a_generator_that_awaits_is_closed_at_once(worker, backend, events):
    if backend != "async":
        pytest.skip("only tasks can be ended")

    async def main():
        stream = worker.astream("slow")
        assert await stream.__anext__() == 1
        await stream.aclose()
        assert await worker.acall("plain", 1) == 1

    run(main())
    wait_until(lambda: ("closed",) in events, LIMIT)


def test_limit_counts_a_stream_as_a_running_call(template):
    async def main(proxy):
        stream = proxy.astream("endless")
        assert await stream.__anext__() == 0
        behind = proxy.submit("plain", 1)
        for _ in range(100):
            await stream.__anext__()
        assert not behind.done()
        await stream.aclose()
        assert await asyncio.wrap_future(behind) == 1

    options = {"backend": "async", "limit": 1, "on_event": lambda *_: None}
    with template.run("streamed.arun", **options) as proxy:
        run(main(proxy))


def test_other_tasks_have_their_turn(worker):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        task = asyncio.create_task(tick())
        found, error = await all_of(worker.astream("numbers", 20_000))
        assert (len(found), error) == (20_000, None)
        assert ticks > 10
        task.cancel()

    run(main())


def test_a_cancelled_task_loses_no_item(worker, tmp_path):
    async def main():
        stream = worker.astream("numbers", 1000)
        found = []

        async def take():
            async for item in stream:
                found.append(item)
                await asyncio.sleep(0)

        while len(found) < 1000:
            task = asyncio.create_task(take())
            for _ in range(30):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert found == list(range(1000))

    run(main())


def test_closing_the_proxy_lets_an_open_stream_finish(worker):
    async def main():
        stream = worker.astream("numbers", 1000)
        assert await stream.__anext__() == 0
        worker.close()
        found, error = await all_of(stream)
        assert (found, error) == (list(range(1, 1000)), None)
        with pytest.raises(ClosedError):
            worker.astream("numbers", 1)

    run(main())


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("here", [True, False])
def test_leaving_the_proxys_with_closes_streams_that_no_task_will_take_from(
    template, backend, taken, here
):
    """Those of the task that leaves, and those of tasks that have ended."""

    async def make():
        stream = proxy.astream("endless")
        if taken:
            assert await stream.__anext__() == 0
        return stream

    async def main():
        async with proxy:
            stream = await (make() if here else asyncio.create_task(make()))
        found, error = await all_of(stream)
        assert found == list(range(taken, len(found) + taken))
        assert isinstance(error, ClosedError)
        assert "before its stream was used up" in str(error)

    proxy = template.run(RUN[backend], backend=backend)
    run(main())


def test_leaving_the_proxys_with_lets_other_tasks_take_the_rest(template, backend):
    async def main():
        async with proxy:
            other = asyncio.create_task(all_of(proxy.astream("numbers", 10_000)))
            await asyncio.sleep(0)  # it has taken over
        assert await other == (list(range(10_000)), None)

    proxy = template.run(RUN[backend], backend=backend)
    run(main())


def test_it_needs_a_running_loop_and_is_not_copied(worker):
    with pytest.raises(RuntimeError, match=r"astream\(\) waits in a running asyncio"):
        worker.astream("numbers", 1)

    async def main():
        async with worker.astream("numbers", 1) as stream:
            with pytest.raises(TypeError, match="cannot be copied"):
                copy.copy(stream)

    run(main())


def test_calls_and_streams_of_the_wrong_function_say_what_to_use(worker, backend):
    async def main():
        found, error = await all_of(worker.astream("plain", 1))
        assert found == []
        assert isinstance(error, TypeError)
        assert "generator function" in str(error)

    run(main())
