"""Reports of every kind in a real browser: on a desk and on a phone, in the dark, and printed.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, SWITCHES, needed, opened, width_of

from lasttoken.evaluation.calibration import Calibration
from lasttoken.evaluation.comparison import compare
from lasttoken.evaluation.decisions import Rule
from lasttoken.evaluation.policy import Policy
from lasttoken.evaluation.run_record import read_record
from lasttoken.labels import LabelSpace
from lasttoken.report.page import render

pytestmark = [needed, pytest.mark.slow]
LONG = ("a-label-of-one-word-that-is-longer-than-any-screen-of-a-phone-is-wide-" * 2, "x" * 90)
TELL_COLOUR = """<script>addEventListener("load", () => {
  document.title = "on " + getComputedStyle(document.body).backgroundColor;
});</script>"""


@pytest.fixture
def page(request: pytest.FixtureRequest, write_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A report: three methods compared, forty classes, or thirty labels of which a row has several, with thresholds."""
    multi = request.param == "several labels"
    names = tuple(f"label {i}" for i in range(28)) if multi else tuple(f"class {i}" for i in range(38))
    labels = None if request.param == "compared" else LabelSpace((*names, *LONG), multi=multi)
    rule = Rule(thresholds=np.linspace(0.2, 0.8, 30)) if multi else Rule()
    told = {"labels": labels, "policy": Policy(Calibration("none"), rule), "updates": 50}
    runs = [
        read_record(write_run(name, skill=skill, **told)) for name, skill in (("a", 3.0), ("b-" * 30, 2.5), ("c", 1.5))
    ]
    comparison = compare({run.name: run.predictions for run in runs}, draws=200).to_dict()
    path = tmp_path / "report.html"
    path.write_text(
        render(runs, comparison, title="A report " + "of-many-words-without-a-space-" * 5), encoding="utf-8"
    )
    return path


EACH = pytest.mark.parametrize("page", ["compared", "many classes", "several labels"], indirect=True)


@EACH
@pytest.mark.parametrize("phone", [False, True])
def test_no_report_is_wider_than_its_window_or_writes_to_the_console(page: Path, tmp_path: Path, phone: bool) -> None:
    wide, window, console = width_of(page, tmp_path, phone=phone)
    assert wide <= window
    assert console == ""


@pytest.mark.parametrize("page", ["compared"], indirect=True)
def test_in_the_dark_the_page_is_dark(page: Path, tmp_path: Path) -> None:
    for scheme, dark in ((0, True), (1, False)):
        switches = (f"--blink-settings=preferredColorScheme={scheme}",)
        dom, _ = opened(page, tmp_path, width=1280, script=TELL_COLOUR, switches=switches)
        colour = list(map(int, re.findall(r"<title>on rgb\((\d+), (\d+), (\d+)\)", dom)[0]))
        assert (max(colour) < 64) if dark else (min(colour) > 192)


@EACH
def test_every_report_prints(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    words = [
        str(CHROMIUM),
        *SWITCHES,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--print-to-pdf={target}",
        page.as_uri(),
    ]
    subprocess.run(words, capture_output=True, timeout=100, check=True)
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type ?/Page[^s]", content)) > 1
