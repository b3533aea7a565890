"""Draws results as horizontal bars, in an SVG that is legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

#: Pixels.
_WIDTH: Final = 860
_LEFT: Final = 300
_RIGHT: Final = 90
_ROW: Final = 24
_BAR: Final = 15
_HEAD: Final = 50
_FOOT: Final = 48

_STYLE: Final = """
  .page { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, -apple-system, "Segoe UI", sans-serif }
  .title { font-size: 15px; font-weight: 600 } .small { font-size: 11px; fill: #59636e }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .ours { fill: #1f6feb } .other { fill: #bc4c00 } .limit { fill: #818b98 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d }
    .ours { fill: #4493f8 } .other { fill: #db6d28 } .limit { fill: #656c76 }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure."""

    label: str
    value: float
    #: ``ours``, ``other`` or ``limit`` (the best that is possible).
    kind: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Figures of one unit."""

    title: str
    #: The axis title, with the unit.
    axis: str
    bars: Sequence[Bar]
    #: The axis begins at this power of ten and is logarithmic; None: it begins at 0 and is linear.
    from_power: int | None = None

    @property
    def height(self) -> int:
        """Pixels."""
        return _HEAD + _ROW * len(self.bars) + _FOOT

    def ticks(self) -> list[float]:
        """Return the marks of the axis; all bars end before the last mark."""
        largest = max(bar.value for bar in self.bars)
        if self.from_power is not None:
            return [10.0**power for power in range(self.from_power, math.ceil(math.log10(largest)) + 1)]
        step = 10.0 ** math.floor(math.log10(largest))
        step *= next(part for part in (0.2, 0.5, 1, 2, 5) if largest / (step * part) <= 5)  # noqa: PLR2004 - marks
        return [step * number for number in range(math.ceil(largest / step) + 1)]

    def x(self, value: float, last: float) -> float:
        """Return the place of *value* on the axis, which ends at the *last* mark."""
        part = value / last
        if self.from_power is not None:
            part = (math.log10(max(value, 1e-9)) - self.from_power) / (math.log10(last) - self.from_power)
        return _LEFT + max(0.0, part) * (_WIDTH - _LEFT - _RIGHT)


def draw(panels: Sequence[Panel], notes: Sequence[str]) -> str:
    """Return the SVG of *panels*, one below the other, and of lines of *notes* below them."""
    height = sum(panel.height for panel in panels) + 18 * len(notes) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        "<title>What livethread costs, compared with other ways to keep a history</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
    ]
    top = 0
    for panel in panels:
        parts += _panel(panel, top)
        top += panel.height
    parts += [_text(20, top + 18 * (n + 1), note, "small") for n, note in enumerate(notes)]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> Iterator[str]:
    ticks = panel.ticks()
    begin, end = top + _HEAD, top + _HEAD + _ROW * len(panel.bars)
    yield _text(20, top + 30, panel.title, "title")
    for tick in ticks:
        x = panel.x(tick, ticks[-1])
        yield f'<line class="grid" x1="{x:.1f}" y1="{begin}" x2="{x:.1f}" y2="{end}"/>'
        yield _text(x, end + 15, f"{tick:,.6g}".replace(",", " "), "small", "middle")
    for number, bar in enumerate(panel.bars):
        y, x = begin + _ROW * number, panel.x(bar.value, ticks[-1])
        yield _text(_LEFT - 10, y + 16, bar.label, "", "end")
        yield (
            f'<rect class="{bar.kind}" x="{_LEFT}" y="{y + (_ROW - _BAR) / 2}" width="{x - _LEFT:.1f}" height="{_BAR}"/>'
        )
        yield _text(x + 6, y + 16, figure(bar.value), "")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, end + 32, panel.axis, "small", "middle")


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def figure(value: float) -> str:
    """Return *value* with three significant digits."""
    if value >= 100:  # noqa: PLR2004 - three digits
        return f"{float(f'{value:.3g}'):,.0f}".replace(",", " ")
    return f"{value:.3g}"


def panels(results: Mapping[str, Any]) -> list[Panel]:
    """Return the panels for *results*."""
    drawn = []
    if queue := results.get("queue"):
        drawn.append(
            Panel(
                "Throughput, from the first append until everything is durable",
                "operations per second (logarithmic axis)",
                list(_rates(queue)),
                from_power=2,
            )
        )
    if sessions := results.get("sessions"):
        for what, title in (
            ("append", "One append of 500 bytes, awaited"),
            ("read", f"Reading a history of {sessions['items']:,} items".replace(",", " ")),
        ):
            bars = [
                Bar(name, seconds * 1000, "ours" if name.startswith("livethread") else "other")
                for name, seconds in sessions[what].items()
            ]
            drawn.append(Panel(title, "milliseconds (less is better)", bars))
    return drawn


def _rates(queue: Mapping[str, Any]) -> Iterator[Bar]:
    for name, shape in queue["shapes"].items():
        threads = "threads" if shape["threads"] > 1 else "thread"
        what = f"{shape['threads']:,} {threads} x {shape['appends']:,}".replace(",", " ")
        yield Bar(f"livethread, {what}", shape["per_s"], "ours")
        for workers, measured in queue["workers"].get(name, {}).items():
            if int(workers) > 1:
                yield Bar(f"the same, {workers} workers", measured["per_s"], "ours")
        yield Bar("one Celery task each, the same", shape["naive_per_s"], "other")
    names = {"redis": "pipelined XADD alone", "files": "files and fdatasync alone", "sqlite": "SQLite alone"}
    for name, label in names.items():
        yield Bar(label, queue["limits"][name]["per_s"], "limit")
