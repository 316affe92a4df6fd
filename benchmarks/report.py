"""The table on the terminal, and the JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.goals import GOALS, OURS, Verdict, advantage, judge, middle
from benchmarks.peers import KINDS
from benchmarks.rows import ROWS
from benchmarks.runner import NOT_INSTALLED, RowResult

DISTRIBUTIONS = (
    "forkrpc",
    "billiard",
    "cloudpickle",
    "execnet",
    "loky",
    "numpy",
    "pebble",
)


def environment() -> dict[str, Any]:
    """Return the versions and the machine that the figures belong to."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "of this checkout" if name == OURS else NOT_INSTALLED
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "load_average": list(os.getloadavg()),
        "versions": versions,
    }


def environment_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Give the environment as text."""
    load = " ".join(f"{value:.2f}" for value in facts["load_average"])
    yield f"{facts['python']}, {facts['kernel']}"
    yield f"{facts['usable_cores']} of {facts['cores']} cores, load average {load}"
    yield ", ".join(f"{name} {text}" for name, text in facts["versions"].items())


def number(value: float | None) -> str:
    """Return three significant digits, with separators and without exponents."""
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def comparison(advantage: float | None) -> str:
    """Say how many times better or worse forkrpc is; nothing for None."""
    if advantage is None:
        return ""
    if advantage < 1:
        return f"{number(1 / advantage)}x worse"
    return f"{number(advantage)}x better"


def columns(lines: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Give lines of cells, the first *left* columns flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def row_lines(result: RowResult) -> Iterator[str]:
    """Give one row of the table: its peers, then failures, then goals."""
    row = ROWS[result.row]
    yield f"{row.title} ({result.row})"
    head = ["", *(metric.label for metric in row.metrics), "forkrpc is"]
    lines = [head]
    for kind in result.rounds:
        values = [middle(result.rounds[kind], metric.key) for metric in row.metrics]
        ratio = None
        if kind != OURS:
            ratio = advantage(result.rounds, row.metrics[0], kind)
        lines.append([KINDS[kind].label, *map(number, values), comparison(ratio)])
    yield from columns(lines)
    for kind, error in result.errors.items():
        if error == NOT_INSTALLED:
            yield f"  {KINDS[kind].label}: {error}"
        else:
            rounds = result.rounds[kind]
            failed = sum(not metrics for metrics in rounds)
            yield (
                f"  !! {KINDS[kind].label} FAILED in {failed} of {len(rounds)} rounds: "
                f"{error}"
            )


def verdicts(results: Iterable[RowResult]) -> list[Verdict]:
    """Judge every goal of the rows that were run."""
    by_row = {result.row: result for result in results}
    return [
        judge(goal, by_row[goal.row].rounds) for goal in GOALS if goal.row in by_row
    ]


def goal_lines(judged: Sequence[Verdict]) -> Iterator[str]:
    """Give the goals, what was measured, and whether they are met."""
    lines = [["goals", "", "measured", ""]]
    for verdict in judged:
        goal = verdict.goal
        measured = number(verdict.measured)
        if verdict.measured is not None and goal.against is not None:
            measured += "x"
        named = ""
        if verdict.peer is not None and verdict.peer != goal.against:
            named = f" ({KINDS[verdict.peer].label})"
        bound = goal.text() + named
        lines.append([ROWS[goal.row].title, bound, measured, verdict.outcome])
    yield from columns(lines, left=2)
    met = sum(verdict.outcome == "met" for verdict in judged)
    yield f"  {met} of {len(judged)} goals met"


def as_json(
    facts: dict[str, Any], quick: bool, results: Sequence[RowResult]
) -> dict[str, Any]:
    """Return everything that was measured."""
    rows = {
        result.row: {
            "title": ROWS[result.row].title,
            "rounds": result.rounds,
            "medians": {
                kind: {
                    metric.key: middle(rounds, metric.key)
                    for metric in ROWS[result.row].metrics
                }
                for kind, rounds in result.rounds.items()
            },
            "errors": result.errors,
        }
        for result in results
    }
    goals = [
        {
            "row": verdict.goal.row,
            "goal": verdict.goal.text(),
            "peer": verdict.peer,
            "measured": verdict.measured,
            "outcome": verdict.outcome,
        }
        for verdict in verdicts(results)
    ]
    return {"environment": facts, "quick": quick, "rows": rows, "goals": goals}
