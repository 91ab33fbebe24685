"""Pages in a real browser: what their elements are once they are loaded, how wide they are, what the console said."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0")

WIDTH = """<script>addEventListener("load", () => {
  document.title = "wide " + document.documentElement.scrollWidth + " of " + innerWidth;
});</script>"""
FRAMED = """<script>addEventListener("load", () => {
  parent.postMessage(document.documentElement.scrollWidth + " of " + innerWidth, "*");
});</script>"""
PHONE = """<!DOCTYPE html><title></title><script>addEventListener("message", (said) => { document.title = "wide " + said.data; });
</script><iframe src="page.html" width="390" height="800" style="border: 0"></iframe>"""


def opened(
    page: Path, tmp_path: Path, *, width: int, script: str = "", around: str = "", switches: tuple[str, ...] = ()
) -> tuple[str, str]:
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
        str(CHROMIUM), *SWITCHES, *switches, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000",
        "--virtual-time-budget=3000", "--dump-dom", (outer if around else copy).as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def width_of(page: Path, tmp_path: Path, *, phone: bool) -> tuple[int, int, str]:
    """(the page's width, that of its window, what the console said) on a desk, or on a phone of 390 pixels."""
    if phone:  # Chromium opens no window that narrow
        dom, console = opened(page, tmp_path, width=800, script=FRAMED, around=PHONE)
    else:
        dom, console = opened(page, tmp_path, width=1280, script=WIDTH)
    wide, window = map(int, re.findall(r"<title>wide (\d+) of (\d+)", dom)[0])
    return wide, window, console
