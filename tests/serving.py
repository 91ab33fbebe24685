"""`lasttoken serve` as a process on a free port, and requests to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SECONDS = 90  # to start on a busy machine


@dataclass
class Serving:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    said: list[str]
    reader: threading.Thread  # of what it says

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
        """(status, JSON or text, headers) of a GET, or of a POST with a body (bytes as they are, else JSON)."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | (headers or {})
        request = urllib.request.Request(self.address + path, data, given)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, head, content = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, head, content = error.code, error.headers, error.read()
        kind = head.get_content_type()
        return status, json.loads(content) if kind == "application/json" else content.decode(), head

    def end(self, kind: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(kind)
        code = self.process.wait(60)
        self.reader.join(10)
        return code


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[Serving]:
    """A server that is up; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lasttoken.cli.main", "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    assert process.stderr is not None
    late = threading.Timer(SECONDS, process.kill)
    late.start()
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if " on http://" in line:
                break
        late.cancel()
        assert any(" on http://" in line for line in said), "".join(said)
        address = "http://" + said[-1].split(" on http://")[1].split()[0]
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        try:
            yield Serving(process, address, said, reader)
        finally:
            process.kill()
            reader.join()
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stderr.close()
