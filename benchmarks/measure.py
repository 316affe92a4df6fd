"""Clocks, percentiles, and memory of processes.  Knows no peer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

MIB = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* (0 to 1) of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def latencies_us(call: Callable[[Any], Any], seconds: float) -> list[float]:
    """Return the microseconds of each of the calls made one by one in *seconds*.

    A fifth of the time goes before, unmeasured: peers that adapt to the machine,
    and the machine itself, settle in it.
    """
    if call(7) != 7:
        raise ValueError("the peer answers wrongly")
    warm = perf_counter() + seconds / 5
    while perf_counter() < warm:
        call(7)
    clock = perf_counter_ns
    times_ns = []
    end = clock() + int(seconds * 1e9)
    stop = 0
    while stop < end:
        start = clock()
        call(7)
        stop = clock()
        times_ns.append(stop - start)
    return [time_ns / 1e3 for time_ns in times_ns]


def rate(step: Callable[[], Any], seconds: float) -> float:
    """Return how often per second *step* ran, one after another, in *seconds*."""
    step()
    count = 0
    start = perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        step()
        count += 1
    return count / elapsed


def private_mib(pid: int) -> float:
    """Return the memory in MiB that only this process has (USS).  Linux only."""
    private_kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            private_kib += int(line.split()[1])
    return private_kib / 1024


def resident_bytes() -> int:
    """Return the resident memory of this process.  Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
