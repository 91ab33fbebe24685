"""A page of a server in headless Chromium, with a script that clicks: through a proxy that adds the script to the page."""

from __future__ import annotations

import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from browser import CHROMIUM, SWITCHES

FRAME = """<!DOCTYPE html><title>phone</title><iframe src="/" width="390" height="800" style="border: 0"></iframe>
<script>addEventListener("message", said => { document.body.dataset.told = said.data; });</script>"""


@contextmanager
def proxied(server: str, script: str) -> Iterator[str]:
    """The address of a proxy of `server` that adds a script to its page; /phone holds the page in a frame of 390 pixels."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.pass_on(None)

        def do_POST(self) -> None:
            self.pass_on(self.rfile.read(int(self.headers["content-length"])))

        def pass_on(self, body: bytes | None) -> None:
            if self.path == "/phone":
                return self.reply(200, "text/html", FRAME.encode())
            names = ("content-type", "authorization")
            headers = {name: self.headers[name] for name in names if self.headers[name]}
            try:
                with urllib.request.urlopen(urllib.request.Request(server + self.path, body, headers)) as answer:
                    status, kind, content = answer.status, answer.headers["content-type"], answer.read()
            except urllib.error.HTTPError as error:
                status, kind, content = error.code, error.headers["content-type"], error.read()
            if self.path == "/":
                content = content.replace(b"</body>", f"<script>{script}</script></body>".encode())
            self.reply(status, kind, content)

        def reply(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()


def visited(address: str, tmp_path: Path, *switches: str, width: int = 1280) -> tuple[str, str]:
    """(the page's elements after its scripts, what the console said)."""
    words = [
        str(CHROMIUM), *SWITCHES, *switches, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1400",
        "--virtual-time-budget=15000", "--disable-background-networking", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if re.search("CONSOLE", line))
