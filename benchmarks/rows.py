"""The table's rows: what each measures, for which peers, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import (
    awaiting,
    creation,
    latency,
    mapping,
    payloads,
    pools,
    throughput,
    upkeep,
)
from benchmarks.scale import Scale


class Metric(NamedTuple):
    """One column: a key of what a measurement returns."""

    key: str
    label: str  # with its unit
    more_is_better: bool = False


class Row(NamedTuple):
    """One workload."""

    title: str
    measure: Callable[[str, Scale], dict[str, float]]  # runs in a process of its own
    kinds: tuple[str, ...]  # peers, keys of ``peers.KINDS``
    metrics: tuple[Metric, ...]  # the first is the one that ratios are made of
    rounds: int = 5  # how often the peers take turns
    quick_rounds: int = 2  # 1: slow, or repeats enough by itself


LATENCY = (Metric("p50_us", "p50 µs"), Metric("p99_us", "p99 µs"))
CALLS = (Metric("calls_per_s", "calls/s", more_is_better=True),)
WORKERS = (
    Metric("workers_per_s", "workers/s", more_is_better=True),
    Metric("made_per_s", "pool made", more_is_better=True),
    Metric("renewed_per_s", "pool kept", more_is_better=True),
)
LIBRARIES = (
    "forkrpc",
    "pool_fork",
    "pool_forkserver",
    "futures",
    "execnet",
    "loky",
    "pebble",
    "billiard",
)
CREATORS = (
    "forkrpc",
    "pool_fork",
    "pool_forkserver",
    "pool_forkserver_bare",
    "process_fork",
    "pebble",
    "billiard",
)
COPIERS = ("forkrpc", "pool_fork", "futures", "execnet", "loky")
RATES = (
    Metric("argument_gb_s", "GB/s, argument", more_is_better=True),
    Metric("result_gb_s", "GB/s, result", more_is_better=True),
)
BESIDE_POOL = ("forkrpc", "pool_fork")
MAPPERS = ("forkrpc", "pool_fork", "futures", "loky")

ROWS = {
    "round_trip": Row(
        "round trip, one call outstanding",
        latency.round_trip,
        (*LIBRARIES, "raw_blocking", "raw_spinning"),
        LATENCY,
    ),
    "round_trip_pinned": Row(
        "round trip, all on one CPU",
        latency.round_trip_pinned,
        ("forkrpc", "pool_fork", "raw_blocking"),
        LATENCY,
    ),
    "acall": Row(
        "round trip in an asyncio program",
        awaiting.acall,
        ("forkrpc", "futures", "raw_sock_recv", "raw_protocol"),
        LATENCY,
    ),
    "pipelined": Row(
        "pipelined tiny calls, a callback each, 1 worker",
        throughput.pipelined,
        LIBRARIES,
        CALLS,
    ),
    "pipelined_dict": Row(
        "pipelined, one small dict", throughput.pipelined_dict, BESIDE_POOL, CALLS
    ),
    "pipelined_dataclass": Row(
        "pipelined, one dataclass", throughput.pipelined_dataclass, BESIDE_POOL, CALLS
    ),
    "pipelined_keywords": Row(
        "pipelined, keyword arguments",
        throughput.pipelined_keywords,
        BESIDE_POOL,
        CALLS,
    ),
    "stream": Row(
        "stream of small items, beside as many pipelined calls",
        throughput.stream,
        ("forkrpc",),
        (
            Metric("items_per_s", "items/s", more_is_better=True),
            Metric("calls_per_s", "calls/s", more_is_better=True),
            Metric("of_calls", "items per call", more_is_better=True),
        ),
    ),
    "pipelined_async": Row(
        "pipelined, async def beside the sync backend",
        throughput.pipelined_async,
        ("forkrpc", "forkrpc_sync"),
        CALLS,
    ),
    "map_tiny": Row(
        "map of 300,000 tiny calls, 2 workers, peers at their best chunk size",
        mapping.map_tiny,
        MAPPERS,
        CALLS,
        quick_rounds=1,
    ),
    "map_tasks": Row(
        "map of 1,000 tasks of 10 ms, 2 workers",
        mapping.map_tasks,
        MAPPERS,
        CALLS,
        rounds=9,
        quick_rounds=1,
    ),
    "bytes_1": Row("bytes of 1 MiB", payloads.bytes_1, COPIERS, RATES),
    "bytes_64": Row("bytes of 64 MiB", payloads.bytes_64, COPIERS, RATES, rounds=3),
    "array_64": Row(
        "numpy array of 64 MiB",
        payloads.array_64,
        tuple(kind for kind in COPIERS if kind != "execnet"),  # which sends none
        RATES,
        rounds=3,
    ),
    "single_use": Row(
        "single-use workers, small parent", creation.single_use, CREATORS, WORKERS
    ),
    "single_use_large_parent": Row(
        "single-use workers, parent with 1 GiB and 8 threads",
        creation.single_use_large_parent,
        CREATORS,
        WORKERS,
        quick_rounds=1,
    ),
    "many_workers": Row(
        "pool of 64 workers, tiny calls, beside one worker",
        pools.many_workers,
        ("forkrpc",),
        (
            Metric("calls_per_s", "calls/s", more_is_better=True),
            Metric("one_per_s", "1 worker", more_is_better=True),
            Metric("of_one", "of 1 worker", more_is_better=True),
        ),
    ),
    "isolated": Row(
        "a worker for each call, 2 at once",
        pools.isolated,
        ("forkrpc", "pool_fork"),
        (
            Metric("calls_per_s", "calls/s", more_is_better=True),
            Metric("spare_ms", "ms, spare"),
            Metric("fresh_ms", "ms, fresh fork"),
            Metric("of_fresh", "spare of fresh"),
        ),
    ),
    "memory": Row(
        "private memory of a worker after 1,000 calls, numpy preloaded",
        upkeep.memory,
        ("forkrpc", "pool_fork", "pool_forkserver"),
        (
            Metric("private_mib", "MiB"),
            Metric("collected_mib", "MiB after gc.collect()"),
        ),
        quick_rounds=1,
    ),
    "queue": Row(
        "calls queued while the worker is held: time and memory per call",
        throughput.queue,
        ("forkrpc", "pool_fork", "execnet", "pebble", "billiard"),
        (
            Metric("us_1000", "µs, 1k"),
            Metric("us_10000", "10k"),
            Metric("us_100000", "100k"),
            Metric("us_1000000", "1M"),
            Metric("drift", "drift"),
            Metric("bytes_per_call", "bytes"),
        ),
        rounds=3,
        quick_rounds=1,
    ),
    "cold": Row(
        "whole program, cold, one call",
        creation.cold,
        ("forkrpc", "pool_fork", "pool_forkserver", "futures", "execnet", "loky"),
        (Metric("ms", "ms"),),
        quick_rounds=1,
    ),
    "death": Row(
        "SIGKILL of a busy worker to the caller's error",
        upkeep.death,
        ("forkrpc", "futures"),
        (
            Metric("p50_ms", "p50 ms"),
            Metric("p99_ms", "p99 ms"),
            Metric("max_ms", "max"),
        ),
        quick_rounds=1,
    ),
    "import_time": Row(
        "import, fresh interpreter",
        creation.import_time,
        (
            "forkrpc",
            "pool_fork",
            "futures",
            "execnet",
            "loky",
            "pebble",
            "billiard",
        ),
        (
            Metric("ms", "ms"),
            Metric("used_ms", "ms with names"),
            Metric("modules", "modules"),
            Metric("unwanted", "asyncio, logging, dataclasses"),
        ),
        quick_rounds=1,
    ),
}
