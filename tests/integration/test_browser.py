"""The report in a real browser: nothing on its console, nothing wider than a phone, tables that sort.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

WIDTH = """<script>addEventListener("load", () => {
  document.title = "wide " + document.documentElement.scrollWidth + " of " + innerWidth;
});</script>"""
FRAMED = """<script>addEventListener("load", () => {
  parent.postMessage(document.documentElement.scrollWidth + " of " + innerWidth, "*");
});</script>"""
PHONE = """<!DOCTYPE html><title></title><script>addEventListener("message", (said) => { document.title = "wide " + said.data; });
</script><iframe src="page.html" width="390" height="800" style="border: 0"></iframe>"""
CLICK = """<script>addEventListener("load", () => {
  const table = document.querySelector("table.sorts"), button = table.tHead.querySelectorAll("button")[1];
  const read = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[1].textContent.replace(/,/g, "")));
  button.click(); const down = read(); button.click(); const up = read();
  document.title = "sorted " + JSON.stringify(down) + JSON.stringify(up);
});</script>"""


def opened(page: Path, tmp_path: Path, *, width: int, script: str = "", around: str = "") -> tuple[str, str]:
    """(the page's elements when it has loaded, what the console said). The page's own policy allows no other script.

    around: another page that holds it in a frame, and is opened in its place.
    """
    html = page.read_text(encoding="utf-8")
    if script:
        html = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", f"{script}</body>")
    copy, outer = tmp_path / "page.html", tmp_path / "outer.html"
    copy.write_text(html, encoding="utf-8")
    outer.write_text(around, encoding="utf-8")
    words = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000", "--virtual-time-budget=3000",
        "--dump-dom", (outer if around else copy).as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def page(runs: dict[str, Path]) -> Path:
    """The report of a run that was trained, its mistakes explained."""
    return runs["embedding"] / "report.html"


def test_nothing_is_on_the_console_and_the_script_has_run(page: Path, tmp_path: Path) -> None:
    dom, console = opened(page, tmp_path, width=1280)
    assert console == ""
    assert "<button>" in dom  # which only the page's script makes: its digest is the one that the policy allows


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_is_no_wider_than_its_window(page: Path, tmp_path: Path, width: int) -> None:
    dom, _ = opened(page, tmp_path, width=width, script=WIDTH)
    wide, window = map(int, re.findall(r"<title>wide (\d+) of (\d+)", dom)[0])
    assert wide <= window


def test_the_page_is_no_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    dom, _ = opened(page, tmp_path, width=800, script=FRAMED, around=PHONE)  # Chromium opens no window that narrow
    wide, window = map(int, re.findall(r"<title>wide (\d+) of (\d+)", dom)[0])
    assert window == 390
    assert wide <= window


def test_a_click_sorts_a_table_and_another_turns_it(page: Path, tmp_path: Path) -> None:
    dom, _ = opened(page, tmp_path, width=1280, script=CLICK)
    down, up = (json.loads(found) for found in re.findall(r"sorted (\[[^]]*\])(\[[^]]*\])", dom)[0])
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
