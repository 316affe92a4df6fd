"""Run the cells, each in a fresh process with a time limit, peers by turns."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import KINDS
from benchmarks.rows import ROWS
from benchmarks.scale import FULL, QUICK

ROOT = Path(__file__).resolve().parent.parent
NOT_INSTALLED = "not installed"


class RowResult(NamedTuple):
    """What a row gave: all rounds' metrics, and each peer's failure, if any."""

    row: str
    rounds: dict[str, list[dict[str, float]]]  # a failed round is an empty dict
    errors: dict[str, str]  # the latest one


def installed(kind: str) -> bool:
    """Tell whether a peer's library can be imported here."""
    return importlib.util.find_spec(KINDS[kind].library) is not None


def measure_row(
    row: str,
    kinds: Sequence[str],
    progress: Callable[[str], None],
    *,
    quick: bool,
    rounds: int | None,
) -> RowResult:
    """Let the peers of a row take turns, *rounds* times or as often as the row says."""
    count = rounds or (ROWS[row].quick_rounds if quick else ROWS[row].rounds)
    limit = (QUICK if quick else FULL).cell_limit
    options = ["--quick"] if quick else []
    result = RowResult(row, {}, {})
    for kind in kinds:
        if installed(kind):
            result.rounds[kind] = []
        else:
            result.errors[kind] = NOT_INSTALLED
    for number in range(count):
        for kind, results in result.rounds.items():
            progress(f"{row}, round {number + 1} of {count}: {kind}")
            answer = run_cell([row, kind, *options], limit)
            if "error" in answer:
                result.errors[kind] = answer["error"]
                answer = {}
            results.append(answer)
    return result


def run_cell(arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Run one cell; return its metrics, or ``{"error": text}``.

    Output goes to files, not to pipes: a worker left behind by a crashed peer would
    keep a pipe open, and this program waiting.  Bytecode may be written: else fresh
    interpreters would compile the library under test each time, unlike installed ones.
    """
    surroundings = os.environ.copy()
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "benchmarks.cell", *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return {"error": f"no result within {limit:g} s"}
        finally:
            end_group(process)
        output.seek(0)
        errors.seek(0)
        return read_answer(output.read(), errors.read(), process.returncode)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a cell and what it left in its process group, so that none disturbs the
    next one."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def read_answer(output: str, errors: str, status: int) -> dict[str, Any]:
    """Return the cell's JSON; an error text if there is none, or the status is bad."""
    lines = output.splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = (errors.strip().splitlines() or ["nothing printed"])[-1]
        return {"error": f"exit status {status}: {last}"}
    if status != 0 and "error" not in answer:
        return {"error": f"exit status {status} after the measurement"}
    return answer


def choose(selected: str | None, known: Mapping[str, Any], what: str) -> list[str]:
    """Return the comma-separated names of *selected*, all for None.

    Raise ValueError for a name that is not known.
    """
    if selected is None:
        return list(known)
    names = [name.strip() for name in selected.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} {name!r}; there are: {', '.join(known)}")
    return [name for name in known if name in names]


def kinds_of(row: str, chosen: Sequence[str]) -> list[str]:
    """Return the peers of a row that were chosen, in the order of the row."""
    return [kind for kind in ROWS[row].kinds if kind in chosen]
