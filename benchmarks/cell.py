"""One measurement: one row, one peer, in this process: ``-m benchmarks.cell``.

Prints one line of JSON, the metrics or ``{"error": ...}``.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback

from benchmarks.rows import ROWS
from benchmarks.scale import FULL, QUICK


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cell")
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("kind")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    try:
        result = ROWS[arguments.row].measure(arguments.kind, scale)
    except Exception as error:  # whatever a peer raises is this cell's result
        traceback.print_exc()
        text = str(error).strip() or "no message"
        print(json.dumps({"error": f"{type(error).__name__}: {text}"}), flush=True)
        return 1
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
