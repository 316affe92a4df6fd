"""Many workers behind one handle: floods of calls, and a worker for each call."""

from __future__ import annotations

import multiprocessing
import time
from threading import Event
from time import perf_counter
from typing import Any

from benchmarks import throughput, work
from benchmarks.measure import median
from benchmarks.peers import PRELOADED, start
from benchmarks.scale import Scale

MANY = 64  # workers
AT_ONCE = 2  # calls that run side by side, each in a worker of its own
FLOOD = 100_000  # calls
BATCH = 50  # calls to workers of their own between two looks at the clock
LIMIT = 60.0  # seconds for anything


def flood_seconds(pool: Any, count: int) -> float:
    """Return the time from the first call to the last callback, in any order."""
    results: list[Any] = []
    finished = Event()

    def note(result: Any) -> None:
        results.append(result)
        if len(results) == count:
            finished.set()

    begun = perf_counter()
    for number in range(count):
        pool(number, note)
    if not finished.wait(LIMIT):
        raise RuntimeError(f"{len(results)} results for {count} calls")
    return perf_counter() - begun


def many_workers(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate over MANY workers, and of one worker right before."""
    from forkrpc import Forker

    peer = start(kind, "echo")
    of_one = throughput.calls_per_second(peer.send, range, scale.seconds)
    peer.close()
    with Forker().require(PRELOADED) as template:
        pool = template.pool(f"{PRELOADED}.echo", max=MANY, idle=MANY, start=0)
        with pool:
            wait_for_idle(pool, MANY)
            flood_seconds(pool, FLOOD // 10)
            rates = [FLOOD / flood_seconds(pool, FLOOD) for _ in range(3)]
    per_second = median(rates)
    return {
        "calls_per_s": per_second,
        "one_per_s": of_one,
        "of_one": per_second / of_one,
    }


def wait_for_idle(pool: Any, count: int) -> None:
    """Wait until so many workers of a forkrpc pool have nothing to do."""
    end = perf_counter() + LIMIT
    while pool.stats()["idle"] < count:
        if perf_counter() > end:
            raise TimeoutError(f"{pool.stats()}")
        time.sleep(0.001)


def isolated(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of calls that have a worker each; of forkrpc latencies too."""
    if kind != "forkrpc":
        context = multiprocessing.get_context("fork")
        with context.Pool(AT_ONCE, maxtasksperchild=1) as pool:

            def batch() -> None:
                for _ in pool.imap(work.echo, range(BATCH)):
                    pass

            return {"calls_per_s": BATCH * steps_per_second(batch, scale)}
    return isolated_by_forkrpc(scale)


def steps_per_second(step: Any, scale: Scale) -> float:
    """Return how often per second *step* runs; at least three times."""
    step()
    times = []
    begun = perf_counter()
    while len(times) < 3 or perf_counter() - begun < scale.creating_seconds:
        before = perf_counter()
        step()
        times.append(perf_counter() - before)
    return 1 / median(times)


def isolated_by_forkrpc(scale: Scale) -> dict[str, float]:
    """Return the rate, and ms of a call to a spare worker and to one just forked."""
    from forkrpc import Forker

    function = f"{PRELOADED}.echo"
    with Forker().require(PRELOADED) as template:
        template.ready()
        with template.pool(function, max=AT_ONCE, isolate=True) as pool:

            def batch() -> None:
                for future in [pool.submit(number) for number in range(BATCH)]:
                    future.result()

            rate = BATCH * steps_per_second(batch, scale)
            spare_ms, fresh_ms = [], []
            begun = perf_counter()
            while perf_counter() - begun < scale.creating_seconds:
                wait_for_idle(pool, AT_ONCE)
                before = perf_counter()
                pool.call(1)
                spare_ms.append(1e3 * (perf_counter() - before))
                wait_for_idle(pool, AT_ONCE)
                before = perf_counter()
                proxy = template.run(function)
                proxy.call(1)
                fresh_ms.append(1e3 * (perf_counter() - before))
                proxy.close()
                proxy.join()
    return {
        "calls_per_s": rate,
        "spare_ms": median(spare_ms),
        "fresh_ms": median(fresh_ms),
        "of_fresh": median(spare_ms) / median(fresh_ms),
    }
