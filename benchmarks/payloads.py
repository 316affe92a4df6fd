"""Large arguments and results, one call after another."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks.measure import MIB, median
from benchmarks.peers import start
from benchmarks.scale import Scale
from benchmarks.work import payload

FEWEST = 5  # calls timed in each direction, however long they take


def bytes_1(kind: str, scale: Scale) -> dict[str, float]:
    """Return GB/s of ``bytes`` of 1 MiB, as an argument and as a result."""
    return _rates(kind, "bytes", MIB, scale)


def bytes_64(kind: str, scale: Scale) -> dict[str, float]:
    """The same for 64 MiB."""
    return _rates(kind, "bytes", 64 * MIB, scale)


def array_64(kind: str, scale: Scale) -> dict[str, float]:
    """The same for a numpy array of 64 MiB."""
    return _rates(kind, "array", 64 * MIB, scale)


def _rates(kind: str, what: str, length: int, scale: Scale) -> dict[str, float]:
    """Return the rates of calls that send, and of calls that fetch, one payload.

    What is sent is received anew each time, by everyone: nobody keeps it.
    """
    peer = start(kind, "swap")
    value = payload(what, length)
    sending = _seconds(lambda: peer.call(value), length, scale)
    order = (what, length)
    fetching = _seconds(lambda: len(peer.call(order)), length, scale)
    peer.close()
    return {
        "argument_gb_s": length / sending / 1e9,
        "result_gb_s": length / fetching / 1e9,
    }


def _seconds(call: Callable[[], Any], expected: int, scale: Scale) -> float:
    """Return the median of a call's times; raise if it answers wrongly."""
    times: list[float] = []
    for _ in range(2):
        if call() != expected:
            raise ValueError("the peer answers wrongly")
    end = perf_counter() + scale.seconds
    while len(times) < FEWEST or perf_counter() < end:
        begun = perf_counter()
        call()
        times.append(perf_counter() - begun)
    return median(times)
