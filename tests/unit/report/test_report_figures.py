import math
from xml.etree import ElementTree as ET

import pytest

from lasttoken.report import figures


def test_a_scale_holds_its_values_and_stays_within_bounds() -> None:
    scale = figures.scale_over([0.71, 0.99], within=(0.0, 1.0))
    assert scale.low < 0.71
    assert scale.high == 1.0
    assert scale.ticks == (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, 1.0], [0.0], [-3.0, -3.0], [1e-9, 2e-9], [3, 40_000]])
def test_a_scale_of_anything_has_ticks_and_width(values: list[float]) -> None:
    scale = figures.scale_over(values)
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks) <= 11
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


def test_every_value_on_a_bound() -> None:
    assert figures.scale_over([1.0, 1.0, 1.0], within=(0.0, 1.0)).high == 1.0
    assert figures.scale_over([0.0], within=(0.0, 1.0)).low == 0.0


def test_an_interval_lies_where_it_should() -> None:
    root = ET.fromstring(figures.interval_strip((0.5, 0.25, 0.75), figures.UNIT, run=0, words="a"))
    whisker = next(line for line in root.iter("line") if "whisker" in line.attrib["class"])
    assert (whisker.attrib["x1"], whisker.attrib["x2"]) == ("25.00%", "75.00%")
    assert root.findall("svg")[-1].attrib["x"] == "50.00%"


def test_an_undefined_interval_draws_only_the_grid() -> None:
    root = ET.fromstring(figures.interval_strip((math.nan,) * 3, figures.UNIT, run=0, words="a"))
    assert {line.attrib["class"] for line in root.iter("line")} == {"grid"}
    assert root.findall("svg") == []


def test_reliability_marks_only_bins_with_rows() -> None:
    root = ET.fromstring(
        figures.reliability_panel([math.nan, 0.75], [math.nan, 0.5], [0, 40], run=1, of="the decision")
    )
    assert root.attrib["aria-label"] == "Reliability. confidence 0.75: right 0.50 of 40"
    assert len(root.findall("svg")) == 1
    assert "40" in [text.text for text in root.iter("text")]
    assert "nan" not in ET.tostring(root, encoding="unicode")


def test_bins_of_few_claims_stand_apart() -> None:
    root = ET.fromstring(figures.reliability_panel([0.1, 0.5, 0.9], [1.0, 0.5, 0.9], [1, 40, 30], run=0, of="it"))
    line = next(mark for mark in root.iter("polyline"))
    assert len(line.attrib["points"].split()) == 2
    assert [mark.attrib["class"] for mark in root.findall("svg")] == ["m0 point faint", "m0 point", "m0 point"]


def test_a_long_log_is_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    thinned = figures.thin(points, 300)
    assert len(thinned) == 250
    assert thinned[0] == (1.5, 0.5)
    assert figures.thin([], 300) == []


def test_a_running_mean_keeps_its_ends() -> None:
    points = [(1.0, 0.0), (2.0, 3.0), (3.0, 6.0)]
    assert figures.running_mean(points, 3) == [(1.0, 1.5), (2.0, 3.0), (3.0, 4.5)]
    assert figures.running_mean(points, 1) == points


@pytest.mark.parametrize("points", [[], [(10.0, 0.5)], [(10.0, math.nan), (20.0, 0.5)], [(i, 1.0) for i in range(700)]])
def test_a_curve_of_anything_is_drawn(points: list[tuple[float, float]]) -> None:
    drawn = figures.curve_panel(points, title="training loss", run=0)
    assert "nan" not in drawn
    assert "training loss against update" in ET.fromstring(drawn).attrib["aria-label"]


def test_names_are_escaped() -> None:
    drawn = figures.dot_strip({0: 0.5}, figures.UNIT, words='<script>"')
    assert "<script>" not in drawn
    assert ET.fromstring(drawn).attrib["aria-label"] == '<script>"'


@pytest.mark.parametrize(
    ("value", "shown"), [(0.85, ".85"), (1.0, "1"), (-0.1, "\u2212.1"), (0.0, "0"), (1200.0, "1,200"), (10.5, "10.5")]
)
def test_ticks(value: float, shown: str) -> None:
    assert figures.tick_text(value) == shown


def test_thirty_six_runs_look_different() -> None:
    assert len({figures.glyph(run) for run in range(36)}) == 36
