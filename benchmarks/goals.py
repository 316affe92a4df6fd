"""What forkrpc must reach, and the verdicts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.measure import median
from benchmarks.peers import KINDS
from benchmarks.rows import ROWS, Metric

OURS = "forkrpc"
BEST = "best peer"  # the library, not counting raw sockets, with the best median

# Tasks that run at once came with 3.12.
ASYNC_SHARE = 0.25 if sys.version_info >= (3, 12) else 0.1

# kind -> one dict of metrics a round; an empty dict where the round failed
Rounds = Mapping[str, Sequence[Mapping[str, float]]]


class Goal(NamedTuple):
    """A bound on forkrpc's metric, or on its ratio to a peer's in the same run.

    ``at_least`` counts how many times better than the peer, in the metric's sense of
    better; ``at_most`` bounds the plain quotient, or the metric itself if there is no
    peer.  One of the two is given.
    """

    row: str
    metric: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    peer_over: float | None = None  # holds only in runs where the peer's metric is more

    def text(self) -> str:
        """Return the bound as the table shows it."""
        sign, bound = ("≥", self.at_least) if self.at_least else ("≤", self.at_most)
        if self.against is None:
            return f"{self.metric} {sign} {bound:g}"
        name = KINDS[self.against].label if self.against in KINDS else self.against
        relation = "better than" if self.at_least else "of"
        return f"{self.metric} {sign} {bound:g}x {relation} {name}"


GOALS = (
    Goal("round_trip", "p50_us", BEST, at_least=6),
    Goal("round_trip", "p50_us", "futures", at_least=20),
    Goal("round_trip", "p50_us", "raw_blocking", at_most=0.4, peer_over=40),
    Goal("round_trip", "p50_us", "raw_spinning", at_most=1.5),
    Goal("round_trip", "p99_us", "raw_blocking", at_most=3),
    Goal("round_trip_pinned", "p50_us", "raw_blocking", at_most=1.6),
    Goal("acall", "p50_us", "raw_sock_recv", at_most=2),
    Goal("acall", "p50_us", "raw_protocol", at_most=2),
    Goal("pipelined", "calls_per_s", "pool_fork", at_least=30),
    Goal("pipelined", "calls_per_s", "futures", at_least=100),
    Goal("pipelined", "calls_per_s", "execnet", at_least=15),
    Goal("pipelined_dict", "calls_per_s", "pool_fork", at_least=10),
    Goal("pipelined_dataclass", "calls_per_s", "pool_fork", at_least=10),
    Goal("pipelined_keywords", "calls_per_s", "pool_fork", at_least=10),
    Goal("stream", "of_calls", at_least=0.5),
    Goal("pipelined_async", "calls_per_s", "forkrpc_sync", at_least=ASYNC_SHARE),
    Goal("map_tiny", "calls_per_s", "pool_fork", at_least=1.5),
    Goal("map_tasks", "calls_per_s", BEST, at_least=0.95),
    Goal("bytes_1", "argument_gb_s", BEST, at_least=4),
    Goal("bytes_1", "result_gb_s", BEST, at_least=4),
    Goal("bytes_64", "argument_gb_s", BEST, at_least=6),
    Goal("bytes_64", "result_gb_s", BEST, at_least=6),
    Goal("array_64", "argument_gb_s", BEST, at_least=5),
    Goal("array_64", "result_gb_s", BEST, at_least=5),
    Goal("single_use", "workers_per_s", "pool_fork", at_least=1.2),
    Goal("single_use", "workers_per_s", "pool_forkserver", at_least=12),
    Goal("single_use_large_parent", "workers_per_s", "pool_fork", at_least=12),
    Goal("single_use_large_parent", "workers_per_s", "pool_forkserver", at_least=12),
    Goal("many_workers", "of_one", at_least=0.3),
    Goal("isolated", "calls_per_s", "pool_fork", at_least=1.2),
    Goal("isolated", "of_fresh", at_most=0.35),
    Goal("memory", "private_mib", at_most=1.3),
    Goal("memory", "collected_mib", at_most=3),
    Goal("queue", "drift", at_most=1.3),
    Goal("queue", "bytes_per_call", at_most=200),
    Goal("cold", "ms", "pool_fork", at_most=1.6),
    Goal("cold", "ms", "pool_forkserver", at_most=0.7),
    Goal("death", "p99_ms", at_most=50),
    Goal("import_time", "ms", at_most=15),
    Goal("import_time", "unwanted", at_most=0),
)


class Verdict(NamedTuple):
    """A goal beside what was measured: None where there is no figure."""

    goal: Goal
    measured: float | None
    peer: str | None  # the kind compared with; of BEST, the one that was best
    outcome: str  # "met", "MISSED", "no figure" or "does not apply"


def middle(rounds: Sequence[Mapping[str, float]], metric: str) -> float | None:
    """Return the median over the rounds that have this metric."""
    values = [result[metric] for result in rounds if metric in result]
    return median(values) if values else None


def metric_of(row: str, key: str) -> Metric:
    """Return the declaration of a row's metric."""
    return next(metric for metric in ROWS[row].metrics if metric.key == key)


def quotient(rounds: Rounds, metric: str, peer: str) -> float | None:
    """Return forkrpc's metric over the peer's: the median of each round's quotient.

    Round by round, because the machine is faster in some rounds than in others.
    """
    pairs = zip(rounds.get(OURS, ()), rounds.get(peer, ()), strict=False)
    quotients = [
        ours[metric] / theirs[metric]
        for ours, theirs in pairs
        if metric in ours and theirs.get(metric)
    ]
    return median(quotients) if quotients else None


def advantage(rounds: Rounds, metric: Metric, peer: str) -> float | None:
    """Return how many times better forkrpc is, in the metric's sense of better."""
    value = quotient(rounds, metric.key, peer)
    if not value:
        return None
    return value if metric.more_is_better else 1 / value


def best_peer(rounds: Rounds, metric: Metric) -> str | None:
    """Return the library that comes nearest to forkrpc, or passes it most."""
    medians = {
        kind: value
        for kind, results in rounds.items()
        if kind != OURS and not KINDS[kind].limit
        if (value := middle(results, metric.key)) is not None
    }
    if not medians:
        return None
    choose = max if metric.more_is_better else min
    return choose(medians, key=lambda kind: medians[kind])


def judge(goal: Goal, rounds: Rounds) -> Verdict:
    """Compare a row's results with one goal."""
    metric = metric_of(goal.row, goal.metric)
    peer = best_peer(rounds, metric) if goal.against == BEST else goal.against
    if goal.peer_over is not None and peer is not None:
        theirs = middle(rounds.get(peer, ()), goal.metric)
        if theirs is not None and theirs <= goal.peer_over:
            return Verdict(goal, None, peer, "does not apply")
    if goal.against is None:
        measured = middle(rounds.get(OURS, ()), goal.metric)
    elif peer is None:
        measured = None
    elif goal.at_least is not None:
        measured = advantage(rounds, metric, peer)
    else:
        measured = quotient(rounds, goal.metric, peer)
    if measured is None:
        return Verdict(goal, None, peer, "no figure")
    if goal.at_least is not None:
        met = measured >= goal.at_least
    else:
        met = measured <= (goal.at_most or 0)
    return Verdict(goal, measured, peer, "met" if met else "MISSED")
