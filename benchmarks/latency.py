"""Round trips with one call outstanding."""

from __future__ import annotations

import os

from benchmarks.measure import latencies_us, percentile
from benchmarks.peers import start
from benchmarks.scale import Scale


def round_trip(kind: str, scale: Scale) -> dict[str, float]:
    """Return median and 99th percentile of a call that echoes a small integer."""
    peer = start(kind, "echo")
    times_us = latencies_us(peer.call, scale.seconds)
    peer.close()
    return {
        "p50_us": percentile(times_us, 0.5),
        "p99_us": percentile(times_us, 0.99),
        "calls": len(times_us),
    }


def round_trip_pinned(kind: str, scale: Scale) -> dict[str, float]:
    """The same with all processes on one CPU: this one, before it makes any."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return round_trip(kind, scale)
