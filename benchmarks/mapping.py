"""Maps over two workers: many tiny calls, fewer that take long."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from benchmarks import work
from benchmarks.measure import median
from benchmarks.scale import Scale

WORKERS = 2
TINY = 300_000  # calls
TASKS = 1_000
# Items in a chunk, among which a peer's best is looked for.
CHUNKSIZES = (500, 2_000, 5_000, 10_000, 20_000, 50_000)
REPEATS = 5  # of each map in a cell; the median counts

# map(items, chunksize): executes the function for each item, returns a list.
Map = Callable[[Iterable[Any], int], "list[Any]"]


@contextmanager
def mapping(kind: str, function: str) -> Iterator[Map]:
    """Yield a map of a function of ``benchmarks.work`` over two workers."""
    called = getattr(work, function)
    if kind == "forkrpc":
        from forkrpc import Forker

        template = Forker().require("benchmarks.work")
        name = f"benchmarks.work.{function}"
        with template.pool(name, max=WORKERS, idle=WORKERS, start=0) as pool:
            yield lambda items, _: list(pool.map(items))
        template.close()
    elif kind == "pool_fork":
        with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            yield lambda items, size: pool.map(called, items, size)
    else:
        with _executor(kind) as executor:
            yield lambda items, size: list(executor.map(called, items, chunksize=size))


def _executor(kind: str) -> Any:
    if kind == "loky":
        from loky import ProcessPoolExecutor as Loky

        return Loky(WORKERS)
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(WORKERS, mp_context=context)


def map_tiny(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of tiny calls: forkrpc's own choice, a peer's best chunk size."""
    sizes = (0,) if kind == "forkrpc" else CHUNKSIZES
    with mapping(kind, "echo") as mapped:
        _seconds(mapped, range(1000), 100)
        best = min(
            median([_seconds(mapped, range(TINY), size) for _ in range(REPEATS)])
            for size in sizes
        )
    return {"calls_per_s": TINY / best}


def map_tasks(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of tasks of 10 ms of CPU time."""
    count = TASKS if scale.seconds >= 1 else TASKS // 5
    with mapping(kind, "burn") as mapped:
        _seconds(mapped, range(2 * WORKERS), 1)
        return {"calls_per_s": count / _seconds(mapped, range(count), 1)}


def _seconds(mapped: Map, items: range, chunksize: int) -> float:
    begun = perf_counter()
    results = mapped(items, chunksize)
    elapsed = perf_counter() - begun
    if results != list(items):
        raise RuntimeError(f"{len(results)} results for {len(items)} items, or wrong")
    return elapsed
