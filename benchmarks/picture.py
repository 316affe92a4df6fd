"""The picture of the README: bars on logarithmic scales, as SVG.

Colours are chosen for white and dark pages alike: text of equal contrast (4.3 to 1) to
white and to #0d1117; nothing is painted behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.goals import OURS, middle
from benchmarks.peers import KINDS
from benchmarks.report import number
from benchmarks.rows import ROWS
from benchmarks.runner import RowResult

TEXT = "#797979"
GRID_OPACITY = 0.35
OUR_BAR = "#2f81f7"
PEER_BAR = "#8b949e"
LIMIT_BAR = "#b98a2e"  # raw sockets: the machine's limit, not a library

# All lengths are user units of the picture, about one pixel each.
PANEL_WIDTH = 450
LABEL_WIDTH = 200
VALUE_WIDTH = 76
PLOT_WIDTH = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
BAR_HEIGHT = 13
LINE_HEIGHT = 20
HEAD_HEIGHT = 44
FOOT_HEIGHT = 34


class Panel(NamedTuple):
    """A row of the table as bars."""

    row: str
    title: str


PANELS = (
    Panel("round_trip", "Round trip, median, µs (less is better)"),
    Panel("pipelined", "Pipelined calls per second (more is better)"),
    Panel("single_use", "Single-use workers per second (more is better)"),
    Panel(
        "single_use_large_parent",
        "The same, parent of 1 GiB, 8 threads (more is better)",
    ),
    Panel("memory", "Private MiB per worker, numpy loaded (less is better)"),
    Panel("cold", "Whole program with one call, ms (less is better)"),
)


class Bar(NamedTuple):
    """One peer's bar."""

    label: str
    value: float
    colour: str
    ours: bool


def bars_of(result: RowResult) -> list[Bar]:
    """Return the peers that have a figure, best first."""
    metric = ROWS[result.row].metrics[0]
    bars = []
    for kind, rounds in result.rounds.items():
        value = middle(rounds, metric.key)
        if value is None or value <= 0:
            continue
        colour = LIMIT_BAR if KINDS[kind].limit else PEER_BAR
        ours = kind == OURS
        bars.append(Bar(KINDS[kind].label, value, OUR_BAR if ours else colour, ours))
    bars.sort(key=lambda bar: bar.value, reverse=metric.more_is_better)
    return bars


class Scale(NamedTuple):
    """A logarithmic axis that begins at a power of ten."""

    low: int  # both as logarithms
    high: float

    def position(self, value: float) -> float:
        """Return the distance from the left end of the plot."""
        return PLOT_WIDTH * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[int]:
        """Return the powers of ten on the axis, as exponents."""
        return list(range(self.low, math.floor(self.high) + 1))


def scale_for(values: Sequence[float]) -> Scale:
    """Return an axis up to the largest of *values*.

    A bar on a logarithmic axis has no natural zero: the axis begins a third of a
    decade or more below the smallest value, so that its bar can be seen.
    """
    low = math.floor(math.log10(min(values) / 2))
    return Scale(low, max(low + 1, math.log10(max(values))))


def tick_text(power: int) -> str:
    """Return a power of ten in few letters."""
    if power >= 6:
        return f"{10 ** (power - 6)}M"
    if power >= 3:
        return f"{10 ** (power - 3)}k"
    return f"{10.0**power:g}"


def text_element(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """Return a piece of text; (x, y) is on its base line."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        f'{weight} fill="{TEXT}">{escape(text)}</text>'
    )


def panel_elements(
    panel: Panel, bars: Sequence[Bar], x: float, y: float
) -> Iterator[str]:
    """Draw one panel with its upper left corner at (x, y)."""
    yield text_element(x, y + 16, panel.title, size=13, bold=True)
    if not bars:
        yield text_element(x, y + HEAD_HEIGHT, "no figures")
        return
    scale = scale_for([bar.value for bar in bars])
    left = x + LABEL_WIDTH
    top = y + HEAD_HEIGHT - 8
    bottom = top + LINE_HEIGHT * len(bars)
    for power in scale.ticks():
        at = left + scale.position(10**power)
        yield (
            f'<line x1="{at:.1f}" y1="{top - 4}" x2="{at:.1f}" y2="{bottom}"'
            f' stroke="{TEXT}" stroke-opacity="{GRID_OPACITY}"/>'
        )
        tick = tick_text(power)
        yield text_element(at, bottom + 14, tick, size=10, anchor="middle")
    for index, bar in enumerate(bars):
        line = top + LINE_HEIGHT * index
        base = line + BAR_HEIGHT - 1
        width = scale.position(bar.value)
        yield text_element(left - 8, base, bar.label, anchor="end", bold=bar.ours)
        yield (
            f'<rect x="{left:.1f}" y="{line}" width="{width:.1f}"'
            f' height="{BAR_HEIGHT}" rx="2" fill="{bar.colour}"/>'
        )
        yield text_element(left + width + 5, base, number(bar.value), bold=bar.ours)


def draw(results: Sequence[RowResult], caption: str) -> str:
    """Return the SVG of those of PANELS that were run, two beside each other."""
    by_row = {result.row: result for result in results}
    shown = [
        (panel, bars_of(by_row[panel.row])) for panel in PANELS if panel.row in by_row
    ]
    elements: list[str] = []
    y = 8.0
    for index in range(0, len(shown), 2):
        pair = shown[index : index + 2]
        for column, (panel, bars) in enumerate(pair):
            elements.extend(panel_elements(panel, bars, 10 + column * PANEL_WIDTH, y))
        longest = max(len(bars) for _, bars in pair)
        y += HEAD_HEIGHT + LINE_HEIGHT * longest + FOOT_HEIGHT
    elements.append(text_element(10, y + 4, caption, size=11))
    width, height = 2 * PANEL_WIDTH + 20, y + 16
    body = "\n".join(elements)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}"'
        f' width="{width}" height="{height:.0f}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, sans-serif">\n'
        f"<title>forkrpc beside its peers</title>\n{body}\n</svg>\n"
    )
