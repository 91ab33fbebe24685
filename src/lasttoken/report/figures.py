"""Figures as inline SVG, drawn by hand: strips that stretch with their table, and panels with axes.

Colours are CSS classes (`m0`, `m1`, ... one for each run), never literals, so that one figure serves light, dark
and paper. Runs differ in colour and shape. Every figure has its content in words (`aria-label`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

SHAPES = (
    "M0 -4.6A4.6 4.6 0 1 1 0 4.6A4.6 4.6 0 1 1 0 -4.6Z",  # circle
    "M-4 -4H4V4H-4Z",  # square
    "M0 -5.6L5.6 0L0 5.6L-5.6 0Z",  # diamond
    "M0 -5.2L5.2 4.2H-5.2Z",  # triangle
    "M0 5.2L5.2 -4.2H-5.2Z",  # triangle on its point
    "M-1.7 -5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",  # cross
)
COLOURS = 6  # in the style sheet
FEWEST = 5  # predictions below which a bin of the reliability diagram is drawn faint
MIDDLE = "50%"  # of a strip, whose height the style sheet sets


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...] = ()  # of the ticks; none: their numbers

    @property
    def told(self) -> list[tuple[float, str]]:
        """Each tick with its text."""
        return list(zip(self.ticks, self.texts or map(tick_text, self.ticks), strict=True))

    def share(self, value: float) -> float:
        """Where `value` lies: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        """`share` as a percentage, the coordinate in a figure without a fixed width."""
        return f"{100 * self.share(value):.2f}%"


UNIT = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


@dataclass(frozen=True)
class Frame:
    """The plotting area of a panel, in px of its own coordinates."""

    left: float
    top: float
    width: float
    height: float
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The px of the point (x, y)."""
        return self.left + self.width * self.x.share(x), self.top + self.height * (1 - self.y.share(y))


def scale_over(
    values: Sequence[float], *, within: tuple[float, float] = (-math.inf, math.inf), ticks: int = 5
) -> Scale:
    """The round-numbered axis with about `ticks` steps that holds every finite value, kept inside `within`."""
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = max(low - room, within[0]), min(high + room, within[1])
    if low >= high:  # every value on one bound
        low, high = (high - 0.1, high) if high == within[1] else (low, low + 0.1)
    raw = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda nice: abs(math.log(nice * power / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, tuple(round(k * step, 12) for k in range(first, last + 1)))


def mark(parent: ET.Element, tag: str, attributes: Mapping[str, str | float], text: str = "") -> ET.Element:
    """A new child of `parent`. The serialiser escapes texts and attributes."""
    shown = {name: value if isinstance(value, str) else f"{value:.5g}" for name, value in attributes.items()}
    child = ET.SubElement(parent, tag, shown)
    child.text = text or None
    return child


def figure(kind: str, words: str) -> ET.Element:
    """An empty SVG of CSS class `kind` that says `words` to who cannot see it."""
    return ET.Element("svg", {"class": kind, "role": "img", "aria-label": words})


def panel(width: float, height: float, words: str) -> ET.Element:
    """An empty SVG with its own coordinates, which scales as a whole."""
    root = figure("panel", words)
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    return root


def markup(root: ET.Element) -> str:
    """The figure as text to stand in an HTML page."""
    return ET.tostring(root, encoding="unicode")


def shape(run: int) -> str:
    """The outline of a run's marker. It moves on where the colours begin again, so that 36 runs differ."""
    return SHAPES[(run + run // COLOURS) % len(SHAPES)]


def place(parent: ET.Element, x: str | float, y: str | float, run: int, *, faint: bool = False) -> None:
    """The marker of run number `run` at (x, y), in px or percent."""
    here = mark(parent, "svg", {"x": x, "y": y, "class": f"m{run % COLOURS} point{' faint' if faint else ''}"})
    mark(here, "path", {"d": shape(run)})


def glyph(run: int) -> str:
    """The marker of a run, to stand beside its name."""
    root = ET.Element("svg", {"class": "glyph", "viewBox": "-7 -7 14 14", "aria-hidden": "true"})
    mark(root, "path", {"d": shape(run), "class": f"m{run % COLOURS}"})
    return markup(root)


def grid(root: ET.Element, scale: Scale) -> None:
    """Vertical lines at the ticks over the full height of a strip."""
    for tick in scale.ticks:
        x = scale.percent(tick)
        mark(root, "line", {"x1": x, "x2": x, "y1": "0", "y2": "100%", "class": "grid"})


def axis_strip(scale: Scale) -> str:
    """The numbers of the ticks, to stand under or over strips of the same width."""
    root = ET.Element("svg", {"class": "strip axis", "aria-hidden": "true"})
    for tick, text in scale.told:
        mark(root, "text", {"x": scale.percent(tick), "y": 17, "class": "tick middle"}, text)
    return markup(root)


def interval_strip(found: tuple[float, float, float], scale: Scale, *, run: int, words: str) -> str:
    """An estimate with its interval (estimate, low, high), one row of an interval plot."""
    estimate, *ends = found
    root = figure("strip", words)
    grid(root, scale)
    whisker(root, ends, scale, f"m{run % COLOURS}")
    if math.isfinite(estimate):
        place(root, scale.percent(estimate), MIDDLE, run)
    return markup(root)


def difference_strip(found: tuple[float, float, float], scale: Scale, *, shown: bool, words: str) -> str:
    """A difference (estimate, low, high) against the zero line; filled if shown."""
    estimate, *ends = found
    root = figure("strip", words)
    zero = scale.percent(0.0)
    mark(root, "line", {"x1": zero, "x2": zero, "y1": "0", "y2": "100%", "class": "zero"})
    colour = "clear" if shown else "unclear"
    whisker(root, ends, scale, colour)
    if math.isfinite(estimate):
        centre = {"cx": scale.percent(estimate), "cy": MIDDLE, "r": 4}
        mark(root, "circle", centre | {"class": f"dot {colour}"})
    return markup(root)


def whisker(root: ET.Element, ends: Sequence[float], scale: Scale, colour: str) -> None:
    """A line from end to end of an interval, with caps; nothing if an end is undefined."""
    if not all(math.isfinite(end) for end in ends):
        return
    low, high = (scale.percent(end) for end in ends)
    mark(root, "line", {"x1": low, "x2": high, "y1": MIDDLE, "y2": MIDDLE, "class": f"whisker {colour}"})
    for end in (low, high):
        cap = mark(root, "svg", {"x": end, "y": MIDDLE, "class": "point"})
        mark(cap, "line", {"x1": 0, "x2": 0, "y1": -4, "y2": 4, "class": f"whisker {colour}"})


def dot_strip(values: Mapping[int, float], scale: Scale, *, words: str) -> str:
    """One value for each run on a common axis, the span between them drawn; run number -> value."""
    root = figure("strip", words)
    grid(root, scale)
    finite = {run: value for run, value in values.items() if math.isfinite(value)}
    if len(finite) > 1:
        low, high = (scale.percent(end(finite.values())) for end in (min, max))
        mark(root, "line", {"x1": low, "x2": high, "y1": MIDDLE, "y2": MIDDLE, "class": "between"})
    for run in sorted(finite, reverse=True):  # the first run on top
        place(root, scale.percent(finite[run]), MIDDLE, run)
    return markup(root)


def axes(root: ET.Element, frame: Frame, *, numbers_below: bool = True) -> None:
    """Grid lines and tick numbers of a panel."""
    right, bottom = frame.left + frame.width, frame.top + frame.height
    for tick, text in frame.y.told:
        y = frame.at(frame.x.low, tick)[1]
        mark(root, "line", {"x1": frame.left, "x2": right, "y1": y, "y2": y, "class": "grid"})
        mark(root, "text", {"x": frame.left - 6, "y": y + 3.5, "class": "tick end"}, text)
    for tick, text in frame.x.told if numbers_below else ():
        x = frame.at(tick, frame.y.low)[0]
        mark(root, "text", {"x": x, "y": bottom + 15, "class": "tick middle"}, text)
    mark(root, "line", {"x1": frame.left, "x2": right, "y1": bottom, "y2": bottom, "class": "base"})


def reliability_panel(
    confidence: Sequence[float],
    accuracy: Sequence[float],
    counts: Sequence[int],
    *,
    run: int,
    of: str,
    before: Sequence[tuple[float, float]] = (),
) -> str:
    """Accuracy against confidence, bin by bin, over a histogram of predictions by bin.

    confidence, accuracy: (B,) means, ignored where counts is 0. counts: (B,), bins of equal width on [0, 1]. Bins with
    fewer than FEWEST predictions are faint and off the line. of: the thing predicted, for the axis label. before:
    (confidence, accuracy) of the bins before calibration.
    """
    words = "; ".join(
        f"confidence {c:.2f}: right {a:.2f} of {n}" for c, a, n in zip(confidence, accuracy, counts, strict=True) if n
    )
    root = panel(300, 338, f"Reliability. {words}")
    unit = Scale(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    frame = Frame(34, 8, 256, 216, unit, unit)
    axes(root, frame, numbers_below=False)
    start, stop = frame.at(0, 0), frame.at(1, 1)
    mark(root, "line", {"x1": start[0], "y1": start[1], "x2": stop[0], "y2": stop[1], "class": "diagonal"})
    if before:
        faint = f"curve faint m{run % COLOURS}"
        mark(root, "polyline", {"points": path([frame.at(c, a) for c, a in before]), "class": faint})
    seen = [(*frame.at(c, a), n >= FEWEST) for c, a, n in zip(confidence, accuracy, counts, strict=True) if n]
    mark(
        root, "polyline", {"points": path([(x, y) for x, y, says in seen if says]), "class": f"curve m{run % COLOURS}"}
    )
    for x, y, says in seen:
        place(root, x, y, run, faint=not says)
    mark(root, "text", {"x": frame.left + 6, "y": frame.top + 12, "class": "tick"}, "share that is right")
    histogram(root, Frame(34, 246, 256, 54, unit, Scale(0.0, max(1, *counts), ())), counts, run=run)
    mark(root, "text", {"x": 162, "y": 333, "class": "tick middle"}, f"probability of {of}")
    return markup(root)


def histogram(root: ET.Element, frame: Frame, counts: Sequence[int], *, run: int) -> None:
    """Bars of equal width, each with its count above."""
    width = frame.width / len(counts)
    for b, count in enumerate(counts):
        x, y = frame.at(b / len(counts), count)
        bar = {"x": x + 1, "y": y, "width": width - 2, "height": frame.top + frame.height - y}
        mark(root, "rect", bar | {"class": f"bar m{run % COLOURS}"})
        if count:
            mark(root, "text", {"x": x + width / 2, "y": y - 3, "class": "count middle"}, short_count(count))
    axes(root, frame)


def curve_panel(points: Sequence[tuple[float, float]], *, title: str, run: int, markers: bool = False) -> str:
    """A quantity against the update: every point marked with `markers`, else a running mean laid over the line."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    span = (
        f", from {finite[0][1]:.3g} at update {finite[0][0]:g} to {finite[-1][1]:.3g} at {finite[-1][0]:g}"
        if finite
        else ""
    )
    root = panel(340, 190, f"{title} against update{span}")
    x = scale_over([0.0, *(x for x, _ in finite)], within=(0.0, math.inf), ticks=4)
    least = 0.0 if all(y >= 0 for _, y in finite) else -math.inf
    frame = Frame(44, 24, 286, 132, x, scale_over([y for _, y in finite], within=(least, math.inf), ticks=4))
    axes(root, frame)
    mark(root, "text", {"x": 2, "y": 12, "class": "label"}, title)
    mark(root, "text", {"x": frame.left + frame.width, "y": 187, "class": "tick end"}, "update")
    colour = f"m{run % COLOURS}"
    thinned = thin(finite, 300)
    window = 1 if markers else max(1, len(thinned) // 12)
    if window > 1:
        mark(root, "polyline", {"points": path([frame.at(*p) for p in thinned]), "class": f"curve faint {colour}"})
    smooth = [frame.at(*p) for p in running_mean(thinned, window)]
    mark(root, "polyline", {"points": path(smooth), "class": f"curve {colour}"})
    for x_px, y_px in smooth if markers or len(smooth) == 1 else ():
        place(root, x_px, y_px, run)
    return markup(root)


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of a group of neighbours."""
    each = math.ceil(len(points) / most) if points else 1
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean over `window` points around it, fewer at the ends; a window of 1 changes nothing."""
    half = window // 2
    shown: list[tuple[float, float]] = []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - half) : i + half + 1] if window > 1 else points[i : i + 1]
        shown.append((x, sum(y for _, y in near) / len(near)))
    return shown


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as an SVG attribute."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def tick_text(value: float) -> str:
    """A tick's number, short: .85, 1,200. As in the text, no zero stands before the point."""
    return f"{value:,.10g}".replace("0.", ".", 1 if abs(value) < 1 else 0).replace("-", "\u2212")


def short_count(count: int) -> str:
    """A count that fits over a narrow bar: 812, 1.2k, 34k."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
