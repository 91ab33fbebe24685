"""What does `lasttoken serve` hold? Requests a second, latency and memory under load and in a flood, on this machine.

    python bench/serving/load.py [--models tiny,smollm2] [--seconds 60] [--clients 64] [--out bench/serving/results]

One text of some 12 tokens a request, over kept connections; the clients are a process of their own on the same cores.
In turn, each for --seconds: as served, and with one request a forward pass; then ten times as many clients that ask
again at once whenever they are refused. A file a model, with what ran where.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

FLOOD = 10  # times as many clients
WORDS = "the a parser model array of file reads tensor value index returns for with error text width sum key".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny,smollm2")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--ask", nargs=3, metavar=("PORT", "CLIENTS", "SECONDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        port, clients, seconds = given.ask
        print(json.dumps(asyncio.run(load(int(port), int(clients), float(seconds)))))
        return
    import torch
    from machine import about

    given.out.mkdir(parents=True, exist_ok=True)
    for model in given.models.split(","):
        with tempfile.TemporaryDirectory() as work:
            run = trained(model, Path(work))
            found = {"model": model, "seconds": given.seconds, **measured(run, given.clients, given.seconds)}
        (given.out / f"{model}.json").write_text(
            json.dumps(found | {"machine": about(torch.device("cpu"))}, indent=1) + "\n"
        )
        print(sentence(found), flush=True)


def trained(model: str, work: Path) -> Path:
    """A run of `embedding` on docstrings of this machine, one epoch."""
    from lasttoken.data.demo import docstring_rows

    rows = docstring_rows(rows=200, libraries={"numpy": "numpy", "pandas": "pandas", "python": "", "torch": "torch"})
    assert rows.labels is not None
    lines = [json.dumps({"text": text, "label": names[0]}) for text, names in zip(rows.texts, rows.labels, strict=True)]
    (work / "rows.jsonl").write_text("\n".join(lines) + "\n")
    words = ["train", str(work / "rows.jsonl"), "--method", "embedding", "--model", model, "--out", str(work / "run")]
    words += ["--set", "method.train.epochs=1", "--set", "method.max_length=64"]
    subprocess.run([sys.executable, "-m", "lasttoken.cli.main", *words], check=True, capture_output=True)
    return work / "run"


def measured(run: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Figures of each way."""
    with server(run) as (process, port, _):
        ask(port, clients, min(5.0, seconds))  # warm
        batched, memory = ask(port, clients, seconds), [resident(process)]
        flood = ask(port, FLOOD * clients, seconds)
        memory.append(resident(process))
        after = ask(port, clients, seconds / 2)
        memory.append(resident(process))
        lone = ask(port, 1, min(5.0, seconds))
    with server(run, "--batch-tokens", "1") as (_, port, _):
        ask(port, clients, min(5.0, seconds))
        single = ask(port, clients, seconds)
    return {
        "clients": clients,
        "batched": batched,
        "one request a forward": single,
        "flood": flood,
        "after the flood": after,
        "one client": lone,
        "resident bytes": memory,
    }


@contextmanager
def server(run: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """(process, port, lines on stderr once it serves) of a server."""
    words = [sys.executable, "-m", "lasttoken.cli.main", "serve", str(run), "--port", "0", *more]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if " on http://" in line)
        said = list[str]()
        threading.Thread(target=said.extend, args=(process.stderr,), daemon=True).start()  # a full pipe would stop it
        yield process, int(line.split(" on http://")[1].split()[0].rpartition(":")[2]), said
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def ask(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """`load` in a process of its own."""
    words = [sys.executable, __file__, "--ask", str(port), str(clients), str(seconds)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


async def load(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """What so many clients got: answers a second, seconds of an answer, and how often what status came."""
    statuses, times = Counter[str](), list[float]()
    end = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, end, random.Random(k), statuses, times) for k in range(clients)))
    times.sort()

    def at(share: float) -> float:
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")

    return {
        "answers a second": len(times) / seconds,
        "p50 s": at(0.5),
        "p99 s": at(0.99),
        "statuses": dict(sorted(statuses.items())),
    }


async def client(port: int, end: float, draw: random.Random, statuses: Counter[str], times: list[float]) -> None:
    """Requests one after another over one connection; a refused one is sent again at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (began := time.perf_counter()) < end:
        writer.write(request([" ".join(draw.choices(WORDS, k=10))]))
        status = "refused"
        while status != "200" and time.perf_counter() < end + 60:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            status = head[9:12].decode()
            statuses[status] += 1
            if status != "200":
                if time.perf_counter() >= end:
                    break
                writer.write(request([" ".join(draw.choices(WORDS, k=10))]))
        if status == "200" and time.perf_counter() < end:
            times.append(time.perf_counter() - began)
    writer.close()


def request(texts: Sequence[str]) -> bytes:
    """The bytes of a POST."""
    body = json.dumps({"texts": texts}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of a process in memory."""
    (line,) = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) * 1024


def sentence(found: dict[str, Any]) -> str:
    """The figures in words."""
    batched, single, flood = (found[name] for name in ("batched", "one request a forward", "flood"))
    after, memory = found["after the flood"], [size / 1e6 for size in found["resident bytes"]]
    rate = batched["answers a second"]
    return (
        f"{found['model']}, {found['clients']} clients for {found['seconds']:g} s: {rate:.0f} answers/s, p50 "
        f"{batched['p50 s'] * 1e3:.0f} ms, p99 {batched['p99 s'] * 1e3:.0f} ms, {rate / single['answers a second']:.2f} times "
        f"one request a forward; {FLOOD} times as many clients: {flood['answers a second'] / rate:.2f} of that goodput beside "
        f"{flood['statuses'].get('429', 0) / found['seconds']:.0f} refusals/s; afterwards {after['answers a second'] / rate:.2f}; "
        f"memory {', '.join(f'{size:.0f}' for size in memory)} MB; one client alone {found['one client']['p50 s'] * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
