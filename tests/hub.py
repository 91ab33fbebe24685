"""A stand-in for the Hub's HTTP API, on loopback: repositories are made, and commits written into a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGE = 100_000  # bytes from which a file goes by LFS


class Hub:
    """What the stand-in holds."""

    def __init__(self, folder: Path, token: str):
        self.folder, self.token = folder, token
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}  # by sha256
        self.asked: list[str] = []  # visibility of every request to make a repository
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    """The few addresses that an upload asks for."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: Any, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if code == 401:
            self.send_header("x-error-message", "Invalid username or password.")
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def do_GET(self) -> None:
        place = self.path.partition("?")[0].removeprefix("/api/models/")
        if "/tree/main" in place:
            name = place.partition("/tree/main")[0]
            files = [p for p in sorted((self.hub.folder / name).rglob("*")) if p.is_file()]
            listed = [p.relative_to(self.hub.folder / name).as_posix() for p in files]
            return self.answer([{"type": "file", "path": path, "oid": "0" * 40, "size": 1} for path in listed])
        self.answer({"id": place, "sha": "0" * 40, "siblings": []})

    def do_PUT(self) -> None:
        data = self.body()
        self.hub.objects[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def do_POST(self) -> None:
        data, path = self.body(), self.path
        if self.headers.get("authorization") != f"Bearer {self.hub.token}":
            return self.answer({"error": "Unauthorized"}, 401)
        if path == "/api/validate-yaml":  # the head of a card
            assert "model-index" in json.loads(data)["content"]
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            known = name in self.hub.repositories
            self.hub.asked.append(asked.get("visibility", ""))
            self.hub.repositories.setdefault(name, asked)
            url = f"{self.hub.address}/{name}"
            return self.answer({"url": url, "name": name, "id": "1"}, 409 if known else 200)
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(data)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] > LARGE else "regular"} for f in files]
            return self.answer({"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]})
        if path.endswith(".git/info/lfs/objects/batch"):
            found = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(data)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": found})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in data.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "deletedFile":
                    (self.hub.folder / match[1] / value["path"]).unlink()
                if entry["key"] in ("file", "lfsFile"):
                    target = self.hub.folder / match[1] / value["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    small = entry["key"] == "file"
                    target.write_bytes(base64.b64decode(value["content"]) if small else self.hub.objects[value["oid"]])
            return self.answer(
                {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.hub.address}/{match[1]}/commit/1"}
            )
        return self.answer({"error": f"no such address: {path}"}, 404)


@contextmanager
def standing_in(folder: Path, token: str) -> Iterator[Hub]:
    """A running stand-in that writes repositories below `folder`."""
    hub = Hub(folder, token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
