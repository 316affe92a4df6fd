"""Workers made for one call each, and whole programs that make one."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread
from time import perf_counter
from typing import Any

from benchmarks import work
from benchmarks.measure import MIB, PAGE_BYTES, median, rate
from benchmarks.peers import PRELOADED, bare_forkserver_context
from benchmarks.scale import Scale

LARGE_PARENT_BYTES = 1 << 30
LARGE_PARENT_THREADS = 8
Step = Callable[[], Any]


@contextmanager
def forkrpc_workers() -> Iterator[Step]:
    """Give a step that makes a worker, calls it, and sees it end."""
    from forkrpc import Forker

    with Forker().require(PRELOADED) as template:
        template.ready()

        def step() -> None:
            proxy = template.run(f"{PRELOADED}.echo")
            if proxy.call(1) != 1:
                raise ValueError("the worker answers wrongly")
            proxy.close()
            if not proxy.join(10):
                raise TimeoutError("the worker does not end")

        yield step


@contextmanager
def pool_renewing(context: Any) -> Iterator[Step]:
    """Give a step that calls a pool whose worker serves one call."""
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield lambda: pool.apply(work.echo, (1,))


@contextmanager
def pool_made(context: Any) -> Iterator[Step]:
    """Give a step that makes a pool, calls it, and closes it."""

    def step() -> None:
        pool = context.Pool(1)
        pool.apply(work.echo, (1,))
        pool.close()
        pool.join()

    yield step


def answer_once(pipe: Any, value: int) -> None:
    """Send the result of one call.  Runs in a process made for it."""
    pipe.send(work.echo(value))
    pipe.close()


@contextmanager
def processes(context: Any) -> Iterator[Step]:
    """Give a step that makes a process and reads its answer: no pool at all."""

    def step() -> None:
        ours, theirs = context.Pipe(False)
        process = context.Process(target=answer_once, args=(theirs, 1))
        process.start()
        theirs.close()
        ours.recv()
        process.join()
        ours.close()

    yield step


@contextmanager
def pebble_processes() -> Iterator[Step]:
    """Give a step that makes a pebble process, which is made for one call."""
    from pebble import concurrent

    context = multiprocessing.get_context("fork")
    echo = concurrent.process(context=context)(work.echo)
    yield lambda: echo(1).result()


def billiard_context() -> Any:
    """Return billiard's fork context."""
    import billiard

    return billiard.get_context("fork")


POOL_CONTEXTS: dict[str, Callable[[], Any]] = {
    "pool_fork": lambda: multiprocessing.get_context("fork"),
    "pool_forkserver": lambda: multiprocessing.get_context("forkserver"),
    "pool_forkserver_bare": bare_forkserver_context,
}
WAYS: dict[str, Callable[[], AbstractContextManager[Step]]] = {
    "forkrpc": forkrpc_workers,
    "process_fork": lambda: processes(multiprocessing.get_context("fork")),
    # Both have pools that renew their workers, at 1 and 10 workers a second.
    "billiard": lambda: processes(billiard_context()),
    "pebble": pebble_processes,
}


def single_use(kind: str, scale: Scale) -> dict[str, float]:
    """Return workers per second; of a pool, both ways it has, and the better one."""
    if kind in POOL_CONTEXTS:
        context = POOL_CONTEXTS[kind]()
        rates = {
            "renewed_per_s": timed(pool_renewing(context), scale),
            "made_per_s": timed(pool_made(context), scale),
        }
        return {"workers_per_s": max(rates.values()), **rates}
    return {"workers_per_s": timed(WAYS[kind](), scale)}


def timed(way: AbstractContextManager[Step], scale: Scale) -> float:
    """Return the steps per second of one way."""
    with way as step:
        return rate(step, scale.creating_seconds)


def single_use_large_parent(kind: str, scale: Scale) -> dict[str, float]:
    """The same from a program that holds 1 GiB and eight idle threads."""
    memory = bytearray(LARGE_PARENT_BYTES)
    # Touch each page: only then is it there, and in the tables that a fork copies.
    memory[::PAGE_BYTES] = b"\1" * (len(memory) // PAGE_BYTES)
    stop = Event()
    threads = [Thread(target=stop.wait) for _ in range(LARGE_PARENT_THREADS)]
    for thread in threads:
        thread.start()
    try:
        return {**single_use(kind, scale), "parent_mib": len(memory) / MIB}
    finally:
        stop.set()


# Whole programs: import, one worker or pool, one call, exit.
POOL = """\
from multiprocessing import get_context
from operator import add
with get_context("{method}").Pool(1) as pool:
    assert pool.apply(add, (1, 2)) == 3
"""
PROGRAMS = {
    "forkrpc": """\
from forkrpc import Forker
assert Forker().run("operator.add").call(1, 2) == 3
""",
    "pool_fork": POOL.format(method="fork"),
    "pool_forkserver": POOL.format(method="forkserver"),
    "futures": """\
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import add
with ProcessPoolExecutor(1, mp_context=get_context("fork")) as executor:
    assert executor.submit(add, 1, 2).result() == 3
""",
    "loky": """\
from operator import add
from loky import ProcessPoolExecutor
with ProcessPoolExecutor(1) as executor:
    assert executor.submit(add, 1, 2).result() == 3
""",
    "execnet": """\
import sys
import execnet
gateway = execnet.makegateway("popen//python=" + sys.executable)
assert gateway.remote_exec("channel.send(1 + 2)").receive() == 3
""",
}


def run_program(text: str) -> str:
    """Run *text* in a fresh interpreter; return what it printed."""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing printed"])[-1]
        raise RuntimeError(f"exit status {done.returncode}: {last}")
    return done.stdout


def cold(kind: str, scale: Scale) -> dict[str, float]:
    """Return the wall time of such a program, from outside."""
    times_ms = []
    for _ in range(scale.starts):
        start = perf_counter()
        run_program(PROGRAMS[kind])
        times_ms.append((perf_counter() - start) * 1e3)
    return {"ms": median(times_ms)}


IMPORTS = {
    "forkrpc": ("import forkrpc", "forkrpc.Forker, forkrpc.Proxy"),
    "pool_fork": ("import multiprocessing", "multiprocessing.Pool"),
    "futures": ("import concurrent.futures", "concurrent.futures.ProcessPoolExecutor"),
    "execnet": ("import execnet", "execnet.makegateway"),
    "loky": ("import loky", "loky.ProcessPoolExecutor"),
    "pebble": ("import pebble", "pebble.ProcessPool"),
    "billiard": ("import billiard", "billiard.Pool"),
}
UNWANTED = ("asyncio", "logging", "dataclasses")
# The names of a package may resolve on first use, so both times are of interest.
IMPORTING = """\
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
{statement}
imported = time.perf_counter()
loaded = set(sys.modules) - before
{names}
used = time.perf_counter()
print(json.dumps({{
    "ms": (imported - start) * 1e3,
    "used_ms": (used - start) * 1e3,
    "modules": len(loaded),
    "unwanted": sum(name in loaded for name in {unwanted!r}),
}}))
"""


def import_time(kind: str, scale: Scale) -> dict[str, float]:
    """Return the time of an import in fresh interpreters, measured in them.

    ``used_ms`` adds the first look at the public names; ``unwanted`` counts those of
    asyncio, logging and dataclasses that the import brought in.
    """
    statement, names = IMPORTS[kind]
    text = IMPORTING.format(statement=statement, names=names, unwanted=UNWANTED)
    runs = [json.loads(run_program(text)) for _ in range(scale.starts)]
    return {key: median([run[key] for run in runs]) for key in runs[0]}
