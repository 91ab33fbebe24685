"""SVG panels that compare runs: learning curves, quality against cost, error against coverage, confusion heat maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from lasttoken.report.figures import COLOURS, Frame, Scale, axes, mark, markup, panel, path, place, scale_over

WIDTH, HEIGHT = 400, 268
POINTS = 200  # of a line, at most


@dataclass(frozen=True)
class Point:
    """A point with the ends of its interval in y; NaN without one."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


def logarithmic(values: Sequence[float], shown: Callable[[float], str]) -> Scale:
    """A log10 axis over positive values, with ticks at 1, 2 and 5 times powers of ten."""
    finite = [math.log10(v) for v in values if math.isfinite(v) and v > 0] or [0.0, 1.0]
    low, high = min(finite) - 0.12, max(finite) + 0.12
    powers = range(math.floor(low), math.ceil(high) + 1)
    places = [power + math.log10(k) for power in powers for k in (1, 2, 5)]
    ticks = [place for place in places if low <= place <= high]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if tick == round(tick)]
    if len(ticks) < 2:
        ticks = sorted({min(finite), max(finite)})
    return Scale(low, high, tuple(ticks), tuple(shown(10**tick) for tick in ticks))


def scale_of(points: Iterable[Point], *, most: float = math.inf) -> Scale:
    """The y axis over points and their intervals; it goes below 0 only if they do."""
    ends = [end for point in points for end in (point.y, point.low, point.high)]
    least = min((end for end in ends if math.isfinite(end)), default=0.0)
    return scale_over(ends, within=(0.0 if least >= 0 else -math.inf, most))


def canvas(words: str, x: Scale, y: Scale, *, title: str, below: str) -> tuple[ET.Element, Frame]:
    """An empty panel with axes, title and x label."""
    root = panel(WIDTH, HEIGHT, words)
    frame = Frame(44, 26, WIDTH - 56, HEIGHT - 74, x, y)
    axes(root, frame)
    mark(root, "text", {"x": 2, "y": 12, "class": "label"}, title)
    mark(root, "text", {"x": frame.left + frame.width, "y": HEIGHT - 8, "class": "tick end"}, below)
    return root, frame


def growth_panel(series: Mapping[int, Sequence[Point]], *, title: str, words: str) -> str:
    """Score against training rows on a logarithmic axis, a line with intervals for each run number."""
    points = [point for those in series.values() for point in those]
    x = logarithmic([point.x for point in points], lambda rows: f"{rows:,.0f}")
    y = scale_of(points, most=1)
    root, frame = canvas(words, x, y, title=title, below="training rows")
    for run, those in series.items():
        placed = [frame.at(math.log10(point.x), point.y) for point in those]
        mark(root, "polyline", {"points": path(placed), "class": f"curve m{run % COLOURS}"})
        for point, (x_px, y_px) in zip(those, placed, strict=True):
            upright(root, frame, point, x_px, f"m{run % COLOURS}")
            place(root, x_px, y_px, run)
    return markup(root)


def upright(root: ET.Element, frame: Frame, point: Point, x: float, colour: str) -> None:
    """The interval of a point as a vertical line."""
    if math.isfinite(point.low) and math.isfinite(point.high):
        ends = [frame.at(frame.x.low, end)[1] for end in (point.low, point.high)]
        mark(root, "line", {"x1": x, "x2": x, "y1": ends[0], "y2": ends[1], "class": f"upright {colour}"})


def pareto_panel(
    points: Mapping[int, Point],
    *,
    title: str,
    below: str,
    less_is_better: bool,
    higher: bool,
    shown: Callable[[float], str],
    words: str,
) -> str:
    """Quality against a cost on a logarithmic axis; a line joins the Pareto front.

    points: run number -> (cost, quality). less_is_better: lower cost is better; higher: higher quality is better.
    """
    known = {run: p for run, p in points.items() if math.isfinite(p.x) and p.x > 0 and math.isfinite(p.y)}
    x = logarithmic([point.x for point in known.values()], shown)
    y = scale_of(known.values())
    root, frame = canvas(words, x, y, title=title, below=below)
    best = front(known, less_is_better=less_is_better, higher=higher)
    placed = {run: frame.at(math.log10(point.x), point.y) for run, point in known.items()}
    line = sorted(placed[run] for run in best)
    mark(root, "polyline", {"points": path(line), "class": "front"})
    for run, point in known.items():
        upright(root, frame, point, placed[run][0], f"m{run % COLOURS}{'' if run in best else ' dim'}")
        place(root, *placed[run], run, faint=run not in best)
    return markup(root)


def front(points: Mapping[int, Point], *, less_is_better: bool, higher: bool) -> set[int]:
    """Run numbers of the Pareto front: no other run is at least as good in both and better in one."""

    def keys(point: Point) -> tuple[float, float]:
        return (point.x if less_is_better else -point.x), (-point.y if higher else point.y)

    found = set[int]()
    for run, point in points.items():
        cost, loss = keys(point)
        others = [keys(other) for name, other in points.items() if name != run]
        if not any(c <= cost and q <= loss and (c < cost or q < loss) for c, q in others):
            found.add(run)
    return found


def lines_panel(
    series: Mapping[int, Sequence[Point]],
    *,
    title: str,
    below: str,
    x: Scale,
    y: Scale,
    words: str,
    levels: Mapping[int, float] | None = None,
) -> str:
    """A line for each run number, of at most POINTS points; `levels` are drawn as dashed lines across."""
    root, frame = canvas(words, x, y, title=title, below=below)
    for run, those in series.items():
        step = max(1, math.ceil(len(those) / POINTS))
        kept = [*those[::step], *([those[-1]] if (len(those) - 1) % step else [])]
        placed = [frame.at(point.x, point.y) for point in kept if math.isfinite(point.y)]
        mark(root, "polyline", {"points": path(placed), "class": f"curve m{run % COLOURS}"})
    for run, level in (levels or {}).items():
        (left, at), right = frame.at(x.low, level), frame.left + frame.width
        line = {"x1": left, "x2": right, "y1": at, "y2": at}
        mark(root, "line", line | {"class": f"level m{run % COLOURS}"})
    return markup(root)


def heat_panel(cells: Sequence[tuple[int, int, float, str]], classes: int, *, words: str) -> str:
    """A heat map of C by C cells (row, column, opacity from 0 to 1, tooltip); the diagonal is right."""
    root = panel(classes, classes, words)
    root.set("class", "panel heat")
    mark(root, "rect", {"x": 0, "y": 0, "width": classes, "height": classes, "class": "ground"})
    for row, column, depth, said in cells:
        place_ = {"x": column, "y": row, "width": 1, "height": 1, "opacity": f"{depth:.2f}"}
        cell = mark(root, "rect", place_ | {"class": "right" if row == column else "wrong"})
        mark(cell, "title", {}, said)
    return markup(root)
