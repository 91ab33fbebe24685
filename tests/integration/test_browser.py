"""The report of a real run in a real browser: nothing on its console, nothing wider than a phone, tables that sort.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import needed, opened, width_of

pytestmark = [needed, pytest.mark.slow]

CLICK = """<script>addEventListener("load", () => {
  const table = document.querySelector("table.sorts"), button = table.tHead.querySelectorAll("button")[1];
  const read = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[1].textContent.replace(/,/g, "")));
  button.click(); const down = read(); button.click(); const up = read();
  document.title = "sorted " + JSON.stringify(down) + JSON.stringify(up);
});</script>"""


@pytest.fixture(scope="module")
def page(runs: dict[str, Path]) -> Path:
    """The report of a run that was trained, its mistakes explained."""
    return runs["embedding"] / "report.html"


def test_nothing_is_on_the_console_and_the_script_has_run(page: Path, tmp_path: Path) -> None:
    dom, console = opened(page, tmp_path, width=1280)
    assert console == ""
    assert "<button>" in dom  # which only the page's script makes: its digest is the one that the policy allows


@pytest.mark.parametrize("phone", [False, True])
def test_the_page_is_no_wider_than_its_window(page: Path, tmp_path: Path, phone: bool) -> None:
    wide, window, _ = width_of(page, tmp_path, phone=phone)
    assert wide <= window == (390 if phone else window)


def test_a_click_sorts_a_table_and_another_turns_it(page: Path, tmp_path: Path) -> None:
    dom, _ = opened(page, tmp_path, width=1280, script=CLICK)
    down, up = (json.loads(found) for found in re.findall(r"sorted (\[[^]]*\])(\[[^]]*\])", dom)[0])
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
