"""Does it lose anything? Ten minutes of load with faults, on loopback and this machine's disk; `make soak`.

    python bench/soak/soak.py [--minutes 10] [--seed 0] [--out bench/soak/soak.json] [--page docs/explain/reliability.md]

Each part names what it did, what went wrong and what was lost. A part fails where an answer, a row or a run is lost, a
damaged file is used, or an error is no sentence. Exit 1 then. The page is made from the figures.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "bench" / "serving"), str(ROOT / "bench" / "speed"), str(ROOT / "tests")]

from load import ask, resident, server, trained  # noqa: E402

CLIENTS = 32
LINES = 5  # that a server may write while it serves
CORRUPTIONS = 200  # of each file
BAD_INPUTS = 10_000  # of each reader


@dataclass
class Part:
    """What one part of the soak did."""

    name: str
    did: str = ""
    faults: int = 0
    lost: int = 0  # answers, rows or runs
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "soak.json")
    parser.add_argument("--page", type=Path, help="write the page from the figures")
    given = parser.parse_args()
    parts = list[Part]()
    with tempfile.TemporaryDirectory() as place:
        work = Soak(Path(place), given.seed, given.minutes * 60)
        for part in (work.serving, work.killed_jobs, work.killed_training, work.full_disk, work.jumping_clock):
            parts.append(timed(part))
        for part in (work.cut_inputs, work.corrupted, work.bad_inputs):
            parts.append(timed(part))
    import torch
    from machine import about

    found = {"seed": given.seed, "minutes": sum(p.seconds for p in parts) / 60, "parts": [asdict(p) for p in parts]}
    found |= about(torch.device("cpu"))
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.page:
        given.page.write_text(page(found), encoding="utf-8")
    sys.exit(any(part.lost or part.problems for part in parts))


def timed(part: Callable[[], Part]) -> Part:
    """The part, with its seconds, told."""
    began = time.perf_counter()
    found = part()
    found.seconds = time.perf_counter() - began
    print(f"{found.name}: {found.did}; {found.faults:,} faults, lost {found.lost} ({found.seconds:.0f} s)", flush=True)
    for problem in found.problems:
        print(f"  PROBLEM {problem}", flush=True)
    return found


class Soak:
    """The parts, over one run and one file of rows."""

    def __init__(self, work: Path, seed: int, seconds: float):
        self.work, self.draw, self.seconds = work, random.Random(seed), seconds
        self.run = trained("tiny", work)
        self.rows = work / "many.csv"
        words = "array index parser model file reads tensor value returns error text width sum key".split()
        lines = ["id,text", *(f"{i},{' '.join(self.draw.choices(words, k=8))} {i}" for i in range(6000))]
        self.rows.write_text("\n".join(lines) + "\n")

    def command(self, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """A finished command."""
        line = [sys.executable, "-m", "lasttoken.cli.main", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, **options)

    def serving(self) -> Part:
        """Load with clients that break off, send nonsense, or come all at once: no error, no answer lost, memory flat."""
        part, seconds = Part("serving"), self.seconds * 0.35
        with server(self.run) as (process, port, said):
            ask(port, CLIENTS, 5)
            before, over = resident(process), threading.Event()
            nasty = threading.Thread(target=self.misbehave, args=(port, over, part))
            nasty.start()
            found = ask(port, CLIENTS, seconds)
            over.set()
            nasty.join()
            after = ask(port, CLIENTS, 5)
            grown = resident(process) - before
            if process.poll() is not None:
                part.problems.append("the server ended")
            if len(said) > LINES:
                part.problems.append(f"clients made the server write {len(said)} lines, such as {said[-1].strip()}")
        wrong = {code: n for code, n in found["statuses"].items() if code not in ("200", "429")}
        part.lost = sum(wrong.values())
        part.did = (
            f"{CLIENTS} clients for {seconds:.0f} s, {found['answers a second']:.0f} answers/s, p99 "
            f"{found['p99 s'] * 1e3:.0f} ms, afterwards {after['answers a second']:.0f}/s; memory {grown / 1e6:+.0f} MB"
        )
        if grown > 200e6:
            part.problems.append(f"memory grew by {grown / 1e6:.0f} MB")
        if wrong:
            part.problems.append(f"statuses {wrong}")
        return part

    def misbehave(self, port: int, over: threading.Event, part: Part) -> None:
        """What bad clients do, until `over`."""
        body = json.dumps({"texts": ["a text"]}).encode()
        head = f"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        whole = head.encode() + body
        while not over.wait(0.02):
            part.faults += 1
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as at:
                kind = part.faults % 5
                if kind == 0:
                    at.sendall(whole[: self.draw.randrange(1, len(whole))])  # breaks off in the middle
                elif kind == 1:
                    at.sendall(self.draw.randbytes(200))
                elif kind == 2:
                    at.sendall(whole)  # leaves before the answer
                elif kind == 3:
                    at.sendall(head.encode() + self.draw.randbytes(len(body)))
                    at.recv(64)
                else:
                    at.sendall(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n")
                    at.recv(64)

    def killed_jobs(self) -> Part:
        """A prediction job, kill -9 at random moments: every row once, byte for byte the undisturbed job's."""
        part = Part("predict, killed")
        wanted = self.work / "whole"
        self.command("predict", self.run, self.rows, "-o", f"{wanted}/", "--part", 300)
        kills = max(5, int(self.seconds / 20))
        told = self.killed(kills, 1.5, "predict", self.run, self.rows, "-o", f"{self.work / 'killed'}/", "--part", 300)
        part.faults, part.did = told["kills"], f"6,000 rows in 20 parts, {told['kills']} kills"
        part.lost = different(wanted, self.work / "killed")
        return part

    def killed_training(self) -> Part:
        """A training, kill -9 at random moments and --resume: the undisturbed run's weights, bit for bit."""
        part = Part("train, killed")
        options = ("--method", "embedding", "--model", "tiny", "--device", "cpu", "--set", "explained=0")
        options += ("--set", "method.train.epochs=8", "--set", "method.max_length=48", "--checkpoint-every", "0.1")
        rows = self.work / "rows.jsonl"
        self.command("train", rows, *options, "--out", self.work / "undisturbed")
        kills = max(4, int(self.seconds / 60))
        told = self.killed(kills, 2.0, "train", rows, *options, "--resume", "--out", self.work / "resumed")
        part.faults, part.did = told["kills"], f"8 epochs of 140 rows, {told['kills']} kills"
        for name in ("adapter/lora.safetensors", "head.safetensors", "policy.json"):
            pair = [self.work / run / name for run in ("undisturbed", "resumed")]
            part.lost += digest(pair[0]) != digest(pair[1]) or digest(pair[0]) == "missing"
        if told["code"]:
            part.problems.append(f"the last command ended with {told['code']}")
        return part

    def killed(self, kills: int, longest: float, *words: object) -> dict[str, Any]:
        """tests/killed.py, in a process of its own. The command ends well in the end."""
        line = [sys.executable, ROOT / "tests" / "killed.py", kills, 0, longest, "--", *words]
        env = {**os.environ, "KILLED_LOG": str(self.work / "killed.log"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=900, check=True, env=env)
        return json.loads(done.stdout)

    def full_disk(self) -> Part:
        """No room for a part: a sentence, exit 2, nothing half-written; with room again the job goes on."""
        part, out = Part("disk full"), self.work / "full"
        words = ("predict", self.run, self.rows, "-o", f"{out}/", "--part", 300)
        failed = 0
        for size in (500, 5_000, 12_000, 30_000):
            part.faults += 1
            limit = lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
            said = self.command(*words, preexec_fn=limit)
            if said.returncode not in (0, 2) or "Traceback" in said.stderr:
                part.problems.append(f"{size} bytes: exit {said.returncode}, {said.stderr.strip().splitlines()[-1:]}")
            part.problems += [f"half-written: {path.name}" for path in out.rglob("*.part")]
            failed += said.returncode == 2
        self.command(*words)
        part.lost = different(self.work / "whole", out)
        part.did = f"6,000 rows, {failed} of {part.faults} times out of room, then with room"
        if not failed:
            part.problems.append("the disk was never full")
        return part

    def jumping_clock(self) -> Part:
        """time.time() jumps by up to a day, both ways, at every call: answers and rows are the same."""
        part, place = Part("clock jumps"), self.work / "clock"
        place.mkdir()
        (place / "sitecustomize.py").write_text(
            "import random, time\nreal = time.time\ndraw = random.Random(0)\n"
            "time.time = lambda: real() + draw.uniform(-86400, 86400)\n"
        )
        env = {**os.environ, "PYTHONPATH": f"{place}:{os.environ.get('PYTHONPATH', '')}"}
        said = self.command("predict", self.run, self.rows, "-o", f"{self.work / 'jumped'}/", "--part", 300, env=env)
        part.faults, part.did = 1, "a job of 6,000 rows under a clock that jumps at every look"
        part.lost = different(self.work / "whole", self.work / "jumped")
        if said.returncode:
            part.problems.append(said.stderr.strip().splitlines()[-1])
        return part

    def cut_inputs(self) -> Part:
        """Files that end too early: told, and no row of a file that could not be read to its end is silently missing."""
        part = Part("inputs cut off")
        data = gzip.compress(self.rows.read_bytes())
        for number in range(12):
            part.faults += 1
            place = self.work / f"cut-{number}.csv.gz"
            place.write_bytes(data[: self.draw.randrange(20, len(data) - 1)])
            said = self.command("predict", self.run, place, "-o", f"{self.work / f'of-cut-{number}'}/")
            if said.returncode != 2 or "Traceback" in said.stderr:
                part.problems.append(f"cut at {place.stat().st_size}: exit {said.returncode}")
        part.did = f"{part.faults} packed files, cut at random places"
        return part

    def corrupted(self) -> Part:
        """Two hundred changes of every file of a run: each found, the file named, none used."""
        from lasttoken.errors import ArtifactError
        from lasttoken.record.folder import MANIFEST, verify

        part, run = Part("files corrupted"), self.work / "corrupted"
        shutil.copytree(self.run, run)
        files = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in (MANIFEST, "report.html")]
        for path in files:
            whole = path.read_bytes()
            for _ in range(CORRUPTIONS if whole else 0):
                part.faults += 1
                changed = bytearray(whole)
                changed[self.draw.randrange(len(whole))] ^= 1 << self.draw.randrange(8)
                path.write_bytes(changed)
                try:
                    verify(run)
                    part.lost += 1
                    part.problems.append(f"{path.name}: used although damaged")
                except ArtifactError as error:
                    if path.name not in str(error):
                        part.problems.append(f"{path.name}: not named in {error}")
            path.write_bytes(whole)
        part.did = f"{len(files)} files of a run, {CORRUPTIONS} changes each"
        return part

    def bad_inputs(self) -> Part:
        """Ten thousand bad files for every reader: rows or a sentence, never anything else."""
        from reading import READERS, bad_files

        part, kinds = Part("bad inputs"), Counter[str]()
        for name in READERS:
            told, problems = bad_files(name, BAD_INPUTS, self.work / "bad", seed=self.draw.randrange(2**31))
            part.faults += sum(told.values())
            kinds.update(told)
            part.problems += problems[:3]
            part.lost += len(problems)
        part.did = (
            f"{BAD_INPUTS:,} for each of {', '.join(READERS)}: {kinds['refused']:,} refused, {kinds['read']:,} read"
        )
        return part


def digest(path: Path) -> str:
    """sha256 of a file; a word for one that is not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def different(one: Path, other: Path) -> int:
    """Rows of the parts that are not in both folders, byte for byte."""
    parts = sorted({p.relative_to(f) for f in (one, other) for p in f.rglob("*.csv")})
    if not parts:
        return 1
    return sum(digest(one / part) != digest(other / part) for part in parts) * 300  # rows of a part


def page(found: dict[str, Any]) -> str:
    """docs/explain/reliability.md."""
    rows = [f"| {p['name']} | {p['did']} | {p['faults']:,} | {p['lost']} |" for p in found["parts"]]
    lost = sum(p["lost"] for p in found["parts"])
    return (
        "\n".join(
            [
                "# What was tried against it",
                "",
                "`make soak` runs load with faults for about ten minutes, on loopback and this machine's disk, and writes",
                "this page. It fails where an answer, a row or a run is lost, a damaged file is used, or an error is not a sentence.",
                "",
                f"Lost in {sum(p['faults'] for p in found['parts']):,} faults: {lost}. {found['minutes']:.0f} minutes on "
                f"{found['machine']['cpu']}, seed {found['seed']}.",
                "",
                "| part | what was done | faults | lost |",
                "|---|---|---|---|",
                *rows,
                "",
                "- **Serving**: clients break off in the middle of a request, send random bytes, leave before the answer, or",
                "  ask for an address of 9,000 characters, fifty times a second beside the load.",
                "- **Killed**: `kill -9` at random moments and the same command again. Rows are compared byte for byte, weights",
                "  bit for bit, with what an undisturbed command writes.",
                "- **Disk full**: the size of a file is limited, so that writing fails in the middle.",
                "- **Clock jumps**: `time.time()` is off by up to a day, at random, whenever it is looked at.",
                "- **Bad inputs**: valid files with bytes changed, left out, put in or cut off, and files of random bytes.",
                "",
                "A power loss is not tried here; every file is flushed, renamed and its folder flushed before it counts as",
                "written (`record/atomic.py`), which tests check by the order of calls.",
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
