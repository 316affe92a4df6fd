"""Calls sent without waiting, a callback for each: rates, long queues."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from threading import Event
from time import perf_counter
from typing import Any

from benchmarks.measure import median, resident_bytes
from benchmarks.peers import ForkrpcPeer, SendingPeer, start
from benchmarks.scale import Scale
from benchmarks.work import Point

FIRST_FLOOD = 500  # calls: enough for a first estimate of the rate
LARGEST_FLOOD = 1_000_000  # calls
ANSWER_LIMIT = 60.0  # seconds for the last answer of a flood to come
Send = Callable[[Iterable[Any], Callable[[Any], Any]], None]


class Flood:
    """Callbacks that gather results and notice the last one.

    One worker answers in order, so the callback of the last call runs last.
    """

    def __init__(self) -> None:
        self.results: list[Any] = []
        self._finished = Event()

    def send(self, send: Send, values: Sequence[Any]) -> None:
        """Make a call for each of *values*, with a callback each."""
        send(islice(values, len(values) - 1), self.results.append)
        send([values[-1]], self._last)

    def _last(self, result: Any) -> None:
        self.results.append(result)
        self._finished.set()

    def wait(self, count: int) -> None:
        """Wait for the last of *count* results; an error if any is missing."""
        if not self._finished.wait(ANSWER_LIMIT) or len(self.results) != count:
            raise RuntimeError(f"{len(self.results)} results for {count} calls")


def flood_seconds(send: Send, values: Sequence[Any]) -> float:
    """Return the time from the first call to the last callback."""
    flood = Flood()
    begun = perf_counter()
    flood.send(send, values)
    flood.wait(len(values))
    return perf_counter() - begun


def calls_per_second(
    send: Send, values: Callable[[int], Sequence[Any]], seconds: float
) -> float:
    """Return the rate of a flood that lasts about *seconds*.

    ``values(n)`` makes the arguments of n calls, before the clock runs.
    """
    flood_seconds(send, values(1))  # the worker's start is no part of a rate
    count = FIRST_FLOOD
    while True:
        elapsed = flood_seconds(send, values(count))
        if elapsed > seconds / 2 or count == LARGEST_FLOOD:
            return count / elapsed
        # By steps: a short flood knows little about the rate of a long one.
        count = min(LARGEST_FLOOD, int(count * min(10, 1.1 * seconds / elapsed)))


def repeated(make: Callable[[int], Any]) -> Callable[[int], Sequence[Any]]:
    """Return a maker of n values from 1,000 distinct objects.

    Distinct, so that no pickle can refer back to a value it has just written; few, so
    that the collector of the parent has not much to walk through.
    """
    pool = [make(number) for number in range(1000)]
    return lambda count: (pool * (count // len(pool) + 1))[:count]


def small_dict(number: int) -> dict[str, Any]:
    """Return a dict as a small request has it."""
    return {"id": number, "name": "temperature", "value": number / 8}


def small_point(number: int) -> Point:
    """Return a small dataclass instance."""
    return Point(number, number / 8, "here")


def keywords(number: int) -> dict[str, Any]:
    """Return the keyword arguments of ``work.scale``."""
    return {"value": number, "factor": 3}


def pipelined(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of calls that echo small integers."""
    return _sending_rate(kind, range, scale)


def pipelined_dict(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of calls that echo a small dict."""
    return _sending_rate(kind, repeated(small_dict), scale)


def pipelined_dataclass(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of calls that echo a dataclass instance."""
    return _sending_rate(kind, repeated(small_point), scale)


def pipelined_async(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of an ``async def`` that echoes small integers.

    Its peer is the same library's sync backend.
    """
    peer: SendingPeer
    if kind == "forkrpc":
        peer = ForkrpcPeer("echo_async", backend="async")
    else:
        peer = start(kind, "echo")
    per_second = calls_per_second(peer.send, range, scale.seconds)
    peer.close()
    return {"calls_per_s": per_second}


def _sending_rate(
    kind: str, values: Callable[[int], Sequence[Any]], scale: Scale
) -> dict[str, float]:
    peer = start(kind, "echo")
    per_second = calls_per_second(peer.send, values, scale.seconds)
    peer.close()
    return {"calls_per_s": per_second}


def stream(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of small items of one stream, and of calls beside it.

    The calls are those of ``pipelined``, as many as there are items, in the same
    process and right before.
    """
    peer = start(kind, "echo")
    streaming = peer.template.run("benchmarks.work.numbers")
    count = LARGEST_FLOOD if scale.seconds >= 1 else LARGEST_FLOOD // 5
    flood_seconds(peer.send, range(FIRST_FLOOD))
    calls = count / flood_seconds(peer.send, range(count))
    begun = perf_counter()
    if sum(1 for _ in streaming.stream(count)) != count:
        raise RuntimeError("items are missing")
    items = count / (perf_counter() - begun)
    streaming.close()
    streaming.join(10)
    peer.close()
    return {"items_per_s": items, "calls_per_s": calls, "of_calls": items / calls}


def pipelined_keywords(kind: str, scale: Scale) -> dict[str, float]:
    """Return the rate of calls with two keyword arguments."""
    peer = start(kind, "scale")
    per_second = calls_per_second(peer.send_keywords, repeated(keywords), scale.seconds)
    peer.close()
    return {"calls_per_s": per_second}


class QueuedCosts:
    """Time and memory of calls that pile up while the worker is held."""

    def __init__(self, peer: SendingPeer, fifo: str) -> None:
        self._peer = peer
        self._fifo = fifo

    def measure(self, count: int) -> tuple[float, float]:
        """Queue *count* calls, let the worker go, wait for all.

        Return microseconds per call, both parts added up, and the parent's growth in
        bytes per call at the longest of the queue.
        """
        values = list(range(count))  # made before: the caller's, not the queue's
        flood = Flood()
        self._peer.send([self._fifo], id)
        before = resident_bytes()
        begun = perf_counter()
        flood.send(self._peer.send, values)
        queueing = perf_counter() - begun
        growth = resident_bytes() - before
        with open(self._fifo, "wb"):  # returns when the worker has it open too
            begun = perf_counter()
        flood.wait(count)
        seconds = queueing + perf_counter() - begun
        return seconds / count * 1e6, growth / count


def queue(kind: str, scale: Scale) -> dict[str, float]:
    """Return time per call for queues of each size, memory for the longest one.

    A peer that keeps no queue, execnet, sends at once; its calls wait in the worker.
    """
    sizes = scale.queued if kind == "forkrpc" else scale.queued_peers
    peer = start(kind, "echo_or_wait")
    flood_seconds(peer.send, range(1000))
    times_us = {}
    with tempfile.TemporaryDirectory() as folder:
        fifo = os.path.join(folder, "hold")
        os.mkfifo(fifo)
        costs = QueuedCosts(peer, fifo)
        # The longest first: later ones find memory that the process already has.
        for size in sorted(sizes, reverse=True):
            repeats = max(1, 10_000 // size)
            runs = [costs.measure(size) for _ in range(repeats)]
            times_us[size] = median([time_us for time_us, _ in runs])
            if size == max(sizes):
                bytes_per_call = runs[0][1]
    peer.close()
    costs_us = {f"us_{size}": times_us[size] for size in sizes}
    drift = times_us[max(sizes)] / times_us[min(sizes)]
    return {**costs_us, "drift": drift, "bytes_per_call": bytes_per_call}
