"""Arguments, and the order of things: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import picture, report
from benchmarks.goals import OURS
from benchmarks.peers import KINDS
from benchmarks.rows import ROWS
from benchmarks.runner import (
    NOT_INSTALLED,
    ROOT,
    RowResult,
    choose,
    kinds_of,
    measure_row,
)

DEFAULT_SVG = ROOT / "docs" / "benchmarks.svg"


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown row or peer ends the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure forkrpc beside its peers, by turns.",
        epilog=f"rows: {', '.join(ROWS)}.  peers: {', '.join(KINDS)}.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="two minutes in all, rougher figures")
    add("--only", metavar="ROWS", help="these rows, separated by commas")
    add("--peers", metavar="PEERS", help="these peers, separated by commas")
    add("--rounds", type=int, help="turns of each peer (default: by row)")
    add("--json", type=Path, metavar="PATH", help="write all figures there")
    add(
        "--svg",
        type=Path,
        metavar="PATH",
        default=DEFAULT_SVG,
        help="draw the picture there (default: docs/benchmarks.svg)",
    )
    arguments = parser.parse_args(words)
    try:
        arguments.only = choose(arguments.only, ROWS, "row")
        arguments.peers = choose(arguments.peers, KINDS, "peer")
    except ValueError as error:
        parser.error(str(error))
    return arguments


def show_progress(text: str) -> None:
    """Overwrite one line of the terminal; say nothing when there is none."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace) -> list[RowResult]:
    """Run the chosen rows; print each as soon as it is there."""
    results = []
    for row in arguments.only:
        kinds = kinds_of(row, arguments.peers)
        result = measure_row(
            row,
            kinds,
            show_progress,
            quick=arguments.quick,
            rounds=arguments.rounds,
        )
        show_progress("")
        print(*report.row_lines(result), "", sep="\n", flush=True)
        results.append(result)
    return results


def write(path: Path, text: str) -> None:
    """Write *text*, making the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; 1 if forkrpc failed in any cell."""
    arguments = parse_arguments(words)
    start = time.monotonic()
    facts = report.environment()
    print(*report.environment_lines(facts), "", sep="\n", flush=True)
    results = measure(arguments)
    print(*report.goal_lines(report.verdicts(results)), "", sep="\n")
    seconds = time.monotonic() - start
    after = report.environment()["load_average"][0]
    print(f"{seconds:.0f} s, load average at the end {after:.2f}")
    if arguments.json:
        figures = report.as_json(facts, arguments.quick, results)
        write(arguments.json, json.dumps(figures, indent=1) + "\n")
    machine = f"{facts['python']}, {facts['kernel']}, {facts['cores']} cores"
    caption = f"{machine}; medians; logarithmic scales"
    write(arguments.svg, picture.draw(results, caption))
    ours = [result.errors.get(OURS, NOT_INSTALLED) for result in results]
    return int(any(error != NOT_INSTALLED for error in ours))


if __name__ == "__main__":
    sys.exit(main())
