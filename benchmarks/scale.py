"""How long each measurement takes: the full run, and ``--quick``."""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """Sizes of one run; each measurement (one row, one peer, one round) is a cell."""

    seconds: float  # of calls timed in a cell, roughly
    creating_seconds: float  # of creating workers in a cell
    queued: tuple[int, ...]  # sizes of forkrpc's queue, in calls
    queued_peers: tuple[int, ...]  # of the peers', which take 20 times as long
    deaths: int  # workers killed in a cell
    starts: int  # fresh interpreters in a cell
    cell_limit: float  # seconds after which a cell is ended and counts as failed


FULL = Scale(
    seconds=1.0,
    creating_seconds=3.0,
    queued=(1_000, 10_000, 100_000, 1_000_000),
    queued_peers=(1_000, 10_000, 100_000),
    deaths=100,
    starts=10,
    cell_limit=120.0,
)
QUICK = Scale(
    seconds=0.25,
    creating_seconds=0.6,
    queued=(1_000, 10_000, 100_000, 1_000_000),
    queued_peers=(1_000, 10_000),
    deaths=30,
    starts=3,
    cell_limit=30.0,
)
