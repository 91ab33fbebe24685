import math
from xml.etree import ElementTree as ET

import pytest

from lasttoken.report import charts, figures
from lasttoken.report.charts import Point


def test_a_logarithmic_axis_has_few_round_ticks() -> None:
    scale = charts.logarithmic([120, 9000], lambda rows: f"{rows:,.0f}")
    assert [text for _, text in scale.told] == ["100", "200", "500", "1,000", "2,000", "5,000", "10,000"] or [
        text for _, text in scale.told
    ] == ["100", "1,000", "10,000"]
    assert scale.low < math.log10(120)
    assert scale.high > math.log10(9000)


@pytest.mark.parametrize("values", [[], [math.nan], [5.0], [0.0, -1.0], [1e-9, 1e12]])
def test_a_logarithmic_axis_of_anything(values: list[float]) -> None:
    scale = charts.logarithmic(values, str)
    assert scale.low < scale.high


def test_an_axis_goes_below_0_only_where_a_score_does() -> None:
    assert charts.scale_of([Point(1, 0.0), Point(2, 0.0, 0.0, 0.0)]).low == 0
    assert charts.scale_of([Point(1, 0.01, 0.0, 0.4)], most=1).low == 0
    assert charts.scale_of([Point(1, -0.2, math.nan, math.nan)]).low < -0.2
    empty = charts.scale_of([Point(1, math.nan)])
    assert empty.low < empty.high


def test_the_front_is_what_no_other_beats_in_both() -> None:
    points = {0: Point(10, 0.9), 1: Point(100, 0.8), 2: Point(50, 0.7), 3: Point(100, 0.8)}
    assert charts.front(points, less_is_better=False, higher=True) == {0, 1, 3}  # equal ones do not beat each other
    assert charts.front(points, less_is_better=True, higher=True) == {0}
    assert charts.front(points, less_is_better=True, higher=False) == {0, 1, 2, 3} - {1, 3}


def test_a_beaten_run_is_faint_and_off_the_line() -> None:
    root = ET.fromstring(
        charts.pareto_panel(
            {0: Point(100, 0.9, 0.88, 0.92), 1: Point(10, 0.8), 2: Point(math.nan, 0.99)},
            title="macro-F1", below="rows/s", less_is_better=False, higher=True, shown=str, words="said",
        )
    )  # fmt: skip
    assert [mark.attrib["class"] for mark in root.findall("svg")] == ["m0 point", "m1 point faint"]
    assert len(next(line for line in root.iter("polyline")).attrib["points"].split()) == 1
    assert sum("upright" in line.attrib["class"] for line in root.iter("line")) == 1


def test_growth_draws_every_size_with_its_interval() -> None:
    series = {0: [Point(100, 0.6, 0.5, 0.7), Point(1000, 0.8, 0.75, 0.85)], 1: [Point(100, 0.5), Point(1000, 0.55)]}
    root = ET.fromstring(charts.growth_panel(series, title="macro-F1", words="said"))
    assert len(root.findall("svg")) == 4
    assert sum("upright" in line.attrib["class"] for line in root.iter("line")) == 2
    assert {"100", "1,000"} <= {text.text for text in root.iter("text")}


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = [Point(i / 999, i / 999) for i in range(1000)]
    root = ET.fromstring(
        charts.lines_panel(
            {0: points}, title="t", below="b", x=figures.UNIT, y=figures.UNIT, words="w", levels={0: 0.5}
        )
    )
    drawn = next(root.iter("polyline")).attrib["points"].split()
    assert len(drawn) <= charts.POINTS + 1
    assert drawn[0].startswith("44.0,")
    assert drawn[-1].startswith("388.0,")
    assert sum("level" in line.attrib["class"] for line in root.iter("line")) == 1


def test_a_place_of_the_square_tells_its_names() -> None:
    root = ET.fromstring(charts.heat_panel([(0, 0, 1.0, "a: right"), (0, 1, 0.5, "a & b")], 2, words="w"))
    cells = [rect for rect in root.iter("rect") if rect.attrib["class"] != "ground"]
    assert [(cell.attrib["class"], next(cell.iter("title")).text) for cell in cells] == [
        ("right", "a: right"), ("wrong", "a & b"),
    ]  # fmt: skip
