"""End-to-end: maps awaited in a loop; asynchronous iterables."""

import asyncio
import contextlib
import gc
import itertools
import pickle

import pytest

import mapped
from forkrpc import ClosedError, WorkerDied, making
from forkrpc.amapping import AsyncSource, amap_over
from forkrpc.mapping import map_over
from helpers import wait_until

LIMIT = 20.0  # seconds for anything to happen; much more than it takes


@pytest.fixture(scope="module", autouse=True)
def _template():
    with mapped.shared():
        yield


@pytest.fixture(params=[1, 2])
def doubling(request):
    with mapped.workers("double", request.param) as (feed, _):
        yield feed


@pytest.fixture
def failing():
    with mapped.workers("fail", on_error=lambda _: None) as (feed, _):
        yield feed


async def all_of(results):
    """Return (results, the exception that ended it, or None)."""
    found = []
    try:
        async for result in results:
            found.append(result)
    except Exception as error:
        return found, error
    return found, None


def run(main):
    return asyncio.run(asyncio.wait_for(main, LIMIT))


async def counted(count, *, awaits=False):
    for number in range(count):
        if awaits:
            await asyncio.sleep(0)
        yield number


KINDS = {
    "range": range,
    "generator": lambda count: (number for number in range(count)),
    "async": counted,
    "awaiting": lambda count: counted(count, awaits=True),
}


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [1, 7, "auto"])
@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_each_item_has_its_result(doubling, kind, count, chunksize, ordered):
    async def main():
        items = KINDS[kind](count)
        results = amap_over(doubling, (items,), chunksize=chunksize, ordered=ordered)
        return await all_of(results)

    found, error = run(main())

    assert error is None
    assert (found if ordered else sorted(found)) == list(range(0, 2 * count, 2))


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_both_backends(backend):
    name = "double" if backend == "sync" else "adouble"

    async def main(feed):
        return await all_of(amap_over(feed, (counted(500),)))

    with mapped.workers(name, backend=backend) as (feed, _):
        assert run(main(feed)) == (list(range(0, 1000, 2)), None)


def test_iterables_of_both_kinds_end_with_the_shortest():
    async def main(feed):
        columns = (counted(50), itertools.count(), range(40))
        return await all_of(amap_over(feed, columns))

    with mapped.workers("add") as (feed, _):
        assert run(main(feed)) == (list(range(0, 120, 3)), None)


def test_starmap_spreads_each_item():
    async def pairs():
        for number in range(50):
            yield number, [number][0]

    async def main(feed):
        return await all_of(amap_over(feed, (pairs(),), starred=True))

    with mapped.workers("add") as (feed, _):
        assert run(main(feed)) == (list(range(0, 100, 2)), None)


def test_what_the_generator_changes_later_has_been_sent_as_it_was():
    async def growing():
        item = []
        for number in range(20):
            item.append(number)
            yield item

    async def main(feed):
        return await all_of(amap_over(feed, (growing(),), chunksize=5))

    with mapped.workers("fail") as (feed, _):
        assert run(main(feed)) == ([list(range(n + 1)) for n in range(20)], None)


@pytest.mark.parametrize("kind", [list, "async"])
@pytest.mark.parametrize("chunksize", [1, 3, "auto"])
def test_a_failing_item_raises_in_its_place(failing, kind, chunksize):
    given = [0, 1, 2, ((3, "raise"), 3), 4]

    async def items():
        for item in given:
            yield item

    async def main():
        results = amap_over(
            failing, (given if kind is list else items(),), chunksize=chunksize
        )
        found, error = await all_of(results)
        assert await all_of(results) == ([], None)
        return found, error

    found, error = run(main())

    assert found == [0, 1, 2]
    assert isinstance(error, KeyError)


def test_an_iterable_that_raises_raises_in_its_place(doubling):
    async def items():
        for number in range(10):
            yield number
        raise OSError("no more")

    async def main():
        return await all_of(amap_over(doubling, (items(),)))

    found, error = run(main())

    assert found == list(range(0, 20, 2))
    assert isinstance(error, OSError)


def test_a_death_is_raised_at_the_first_item_that_is_lost(failing):
    async def main():
        items = [0, 1, 2, ((3, "kill"), 3), 4]
        return await all_of(amap_over(failing, (items,), chunksize=2))

    found, error = run(main())

    assert found == [0, 1]
    assert isinstance(error, WorkerDied)


def test_results_come_while_an_asynchronous_iterable_waits(doubling):
    async def main():
        arrived = asyncio.Event()

        async def items():
            yield 1
            await arrived.wait()  # for the result of the item before
            yield 2

        found = []
        async for result in amap_over(doubling, (items(),)):
            found.append(result)
            arrived.set()
        return found

    assert run(main()) == [2, 4]


def test_items_are_taken_a_bounded_window_ahead(doubling):
    taken = 0

    async def items():
        nonlocal taken
        while True:
            taken += 1
            yield taken

    async def main():
        results = amap_over(doubling, (items(),), chunksize=2)
        assert taken == 0
        async for result in results:
            assert taken <= result // 2 + 2 * 2 * 10 * doubling.workers
            if result > 1000:
                break
        await results.aclose()
        return await all_of(results)

    assert run(main()) == ([], None)


@pytest.mark.parametrize("how", ["aclose", "with", "drop"])
def test_a_map_that_is_left_early_leaves_nothing(doubling, how):
    closed = []

    async def items():
        try:
            for number in itertools.count():
                yield number
        finally:
            closed.append(True)

    async def main():
        results = amap_over(doubling, (items(),), chunksize=3)
        assert await anext(results) == 0
        if how == "aclose":
            await results.aclose()
        elif how == "with":
            async with results:
                pass
        del results
        while not closed:
            gc.collect()
            await asyncio.sleep(0)

    run(main())

    def none_is_left():
        gc.collect()
        return not any(isinstance(each, making.Job) for each in gc.get_objects())

    wait_until(none_is_left, LIMIT, "the end of all jobs")


def test_a_task_that_waits_is_woken_by_aclose():
    async def main(feed):
        async def never():
            await asyncio.Event().wait()
            yield 1

        results = amap_over(feed, (never(),))
        waiting = asyncio.create_task(all_of(results))
        while not results._told.waits():
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task waits"):
            await anext(results)
        await results.aclose()
        return await waiting

    with mapped.workers("double") as (feed, _):
        assert run(main(feed)) == ([], None)


def test_cancelling_a_task_that_waits_goes_on_later(doubling):
    async def main():
        go = asyncio.Event()

        async def items():
            await go.wait()
            yield 1

        results = amap_over(doubling, (items(),))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.001)
        go.set()
        return await all_of(results)

    assert run(main()) == ([2], None)


def test_other_tasks_run_while_one_waits(doubling):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        found, error = await all_of(amap_over(doubling, (range(1000),), chunksize=10))
        ticking.cancel()
        return found, error, ticks

    found, error, ticks = run(main())

    assert (found, error) == (list(range(0, 2000, 2)), None)
    assert ticks


def test_it_needs_a_loop_that_runs(doubling):
    with pytest.raises(RuntimeError, match="amap"):
        amap_over(doubling, ([1],))


def test_what_is_wrong_is_told_at_once():
    async def main(feed, proxy):
        with pytest.raises(ValueError, match="chunksize"):
            amap_over(feed, ([1],), chunksize=0)
        with pytest.raises(TypeError, match="at least one iterable"):
            amap_over(feed, ())
        with pytest.raises(TypeError, match="iter"):
            amap_over(feed, (1,))
        with pytest.raises(TypeError, match="iter"):
            amap_over(feed, (counted(1), 1))
        results = amap_over(feed, ([1],))
        with pytest.raises(TypeError, match="cannot be copied or sent"):
            pickle.dumps(results)
        assert "mapped.double, open" in repr(results)
        proxy.close()
        with pytest.raises(ClosedError):
            amap_over(feed, ([1],))

    with mapped.workers("double") as (feed, (proxy,)):
        run(main(feed, proxy))


@pytest.mark.parametrize("source", ["sync", "async"])
def test_dropping_it_when_the_loop_is_closed_does_no_harm(doubling, source):
    kept = []

    async def main():
        items = counted(10**9, awaits=True) if source == "async" else itertools.count()
        kept.append(amap_over(doubling, (items,)))
        assert await anext(kept[0]) == 0

    run(main())
    kept.clear()
    gc.collect()

    assert list(map_over(doubling, ([1],))) == [2]  # behind what that has done


def test_an_asynchronous_source_stops_when_it_is_ended():
    async def main():
        source = AsyncSource(counted(3), starred=False)
        source.end()
        assert source.peek(5) == []
        assert source.ended

    run(main())
