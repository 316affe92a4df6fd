"""What a worker costs while it lives, and what its death looks like to the caller."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from threading import Thread
from time import perf_counter
from typing import Any

from benchmarks import work
from benchmarks.measure import percentile, private_mib
from benchmarks.peers import PRELOADED, ForkrpcPeer, Peer, PoolPeer
from benchmarks.scale import Scale

CALLS_BEFORE_WEIGHING = 1000
BUSY_SECONDS = 60.0  # a call that a worker is killed in
UNDER_WAY_SECONDS = 0.02  # from making that call to the kill: it has begun by then


def forkrpc_with_numpy() -> tuple[Peer, int]:
    """Return a worker of a template that has imported numpy, and its process id."""
    peer = ForkrpcPeer("echo_or_collect", "numpy")
    pid = peer.proxy.pid
    assert pid is not None
    return peer, pid


def pool_fork_with_numpy() -> tuple[Peer, int]:
    """Import numpy here, as the program of a forking pool does."""
    import numpy  # noqa: F401

    return _pool_worker(multiprocessing.get_context("fork"))


def pool_forkserver_with_numpy() -> tuple[Peer, int]:
    """Import numpy in the forkserver."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED, "numpy"])
    return _pool_worker(context)


def _pool_worker(context: Any) -> tuple[Peer, int]:
    peer = PoolPeer("echo_or_collect", context)
    (process,) = multiprocessing.active_children()
    assert process.pid is not None
    return peer, process.pid


WEIGHED: dict[str, Callable[[], tuple[Peer, int]]] = {
    "forkrpc": forkrpc_with_numpy,
    "pool_fork": pool_fork_with_numpy,
    "pool_forkserver": pool_forkserver_with_numpy,
}


def memory(kind: str, scale: Scale) -> dict[str, float]:
    """Return the private memory of a worker that has served 1,000 calls.

    numpy was imported before the fork.  Then once more after a collection of garbage in
    the worker, which touches every object that was not frozen before the fork.
    """
    peer, pid = WEIGHED[kind]()
    for number in range(CALLS_BEFORE_WEIGHING):
        peer.call(number)
    private = private_mib(pid)
    peer.call(None)
    collected = private_mib(pid)
    peer.close()
    return {"private_mib": private, "collected_mib": collected}


class Victim:
    """Kills a worker, notes when."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.killed_at = 0.0

    def kill_later(self) -> None:
        """Wait until the call is under way, then kill."""
        time.sleep(UNDER_WAY_SECONDS)
        self.killed_at = perf_counter()
        os.kill(self._pid, signal.SIGKILL)


def seconds_to_error(victim: Victim, wait: Callable[[], Any]) -> float:
    """Return the time from the kill until ``wait()``, begun before it, raises."""
    killer = Thread(target=victim.kill_later)
    killer.start()
    try:
        answer = wait()
    except BrokenExecutor:
        raised_at = perf_counter()
    else:
        raise RuntimeError(f"a call answered {answer!r} though its worker was killed")
    finally:
        killer.join()
    return raised_at - victim.killed_at


def forkrpc_deaths(count: int) -> list[float]:
    """Kill workers in a call: by turns one whose caller waits in ``call``, and one
    whose caller waits for a future.  Those take different ways through the library.
    """
    from forkrpc import Forker

    seconds = []
    with Forker().require(PRELOADED) as template:
        for number in range(count):
            proxy = template.run(f"{PRELOADED}.pid_or_sleep")
            victim = Victim(proxy.call(None))
            wait: Callable[[], Any] = partial(proxy.call, BUSY_SECONDS)
            if number % 2:
                wait = proxy.submit(BUSY_SECONDS).result
            seconds.append(seconds_to_error(victim, wait))
            proxy.join(10)
    return seconds


def futures_deaths(count: int) -> list[float]:
    """Kill the worker of an executor, which breaks the executor."""
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    seconds = []
    for _ in range(count):
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            victim = Victim(executor.submit(work.pid_or_sleep, None).result())
            future = executor.submit(work.pid_or_sleep, BUSY_SECONDS)
            seconds.append(seconds_to_error(victim, future.result))
    return seconds


KILLED: dict[str, Callable[[int], list[float]]] = {
    "forkrpc": forkrpc_deaths,
    "futures": futures_deaths,
}


def death(kind: str, scale: Scale) -> dict[str, float]:
    """Return milliseconds from SIGKILL of a busy worker to the caller's exception."""
    times_ms = [seconds * 1e3 for seconds in KILLED[kind](scale.deaths)]
    return {
        "p50_ms": percentile(times_ms, 0.5),
        "p99_ms": percentile(times_ms, 0.99),
        "max_ms": max(times_ms),
    }
