"""Whoever the workers are, the folder is the same; one that is ended costs nothing but time, or says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import killing
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.cluster import Room, fitting
from lasttoken.data.read import Columns
from lasttoken.errors import ArtifactError, ConfigError, DataError, ModelError
from lasttoken.predict.driver import run_job
from lasttoken.predict.engines import Engine, Here, Place, Processes
from lasttoken.predict.job import Job, JobSummary
from lasttoken.predict.options import Input, Loading, Output
from lasttoken.predict.parts import Unit
from lasttoken.predict.places import OutputFolder, inputs_of
from lasttoken.predict.placing import engine_of, places_of
from lasttoken.predict.worker import GetPredictor


def processes(load: GetPredictor) -> Engine:
    return Processes(load, [{}, {}])


@pytest.fixture(scope="module")
def ray_room() -> Iterator[None]:
    if find_spec("ray") is None:
        pytest.skip("pip install 'lasttoken[ray]'")
    from lasttoken.cluster import joined

    with joined():
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(killing)  # actors do not see this folder
        yield


def on_ray(load: GetPredictor) -> Engine:
    from lasttoken.predict.on_ray import OnRay

    return OnRay(load, Room(2, 0.5, 0.0))


@pytest.fixture(params=["processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Callable[[GetPredictor], Engine]:
    """engine(load) -> two workers, in processes of this machine or as actors."""
    if request.param == "processes":
        return processes
    request.getfixturevalue("ray_room")
    return on_ray


def job(source: Path, out: Path, **options: bool) -> Job:
    files = inputs_of(str(source), str(out))
    made_by = {"run": "digest", "settings": {}}
    return Job(files, OutputFolder(str(out)), Input(Columns(text=("text",))), Output(), made_by, part=10, **options)


def sources(place: Path) -> Path:
    """A CSV file with rows that cannot be read, one that cannot be read at all, Parquet in short and in long row groups."""
    place.mkdir()
    rows = [f"{i},text {'x' * (i % 9)}" if i % 13 else f"{i},too,many" for i in range(95)]
    (place / "a.csv").write_text("n,text\n" + "\n".join(rows) + f"\n95,{killing.DEADLY}\n")
    (place / "b.csv").write_bytes(b"n,text\n\xff,1\n")
    frame = pa.table({"text": [f"row {'y' * (i % 9)}" for i in range(95)], "n": list(range(95))})
    pq.write_table(frame, place / "c.parquet", row_group_size=7)
    pq.write_table(frame, place / "d.parquet")
    return place


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def counts(done: JobSummary) -> tuple[int, int, int, int]:
    return done.parts, done.rows, done.bad, len(done.unread)


def test_two_workers_write_what_one_writes(tmp_path: Path, engine: Callable[[GetPredictor], Engine]) -> None:
    place = sources(tmp_path / "in")
    alone = run_job(job(place, tmp_path / "alone"), lambda: closing(Here(killing.by_length)))
    together = run_job(job(place, tmp_path / "together"), lambda: closing(engine(killing.by_length)))
    assert counts(alone) == counts(together) == (9 + 14 + 10, 96 - 8 + 95 + 95, 8, 1)
    assert content(tmp_path / "alone") == content(tmp_path / "together")
    frames = [pd.read_parquet(path) for path in sorted((tmp_path / "together").glob("00003-d-*.parquet"))]
    assert pd.concat(frames)["n"].tolist() == list(range(95))
    (tmp_path / "together/00003-d-000004.parquet").unlink()
    (tmp_path / "together/00000-a-000002.csv").unlink()
    again = run_job(job(place, tmp_path / "together"), lambda: closing(engine(killing.by_length)))
    assert (counts(again), again.kept) == (counts(alone), alone.parts - 2)
    assert content(tmp_path / "alone") == content(tmp_path / "together")


def test_mistakes_are_told_as_by_one(tmp_path: Path, engine: Callable[[GetPredictor], Engine]) -> None:
    place = sources(tmp_path / "in")
    with pytest.raises(ModelError, match="no such model"):
        run_job(job(place, tmp_path / "out"), lambda: closing(engine(killing.missing)))
    with pytest.raises(DataError, match="3 fields, expected 2"):
        run_job(job(place, tmp_path / "strict", strict=True), lambda: closing(engine(killing.by_length)))
    pd.DataFrame({"text": ["a"], "predicted_label": ["b"]}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match="has a column 'predicted_label' already"):
        run_job(job(tmp_path / "e.parquet", tmp_path / "taken"), lambda: closing(engine(killing.by_length)))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "taken").exists()


def test_a_process_that_is_ended_is_told_and_the_job_goes_on(tmp_path: Path) -> None:
    place, marks = sources(tmp_path / "in"), tmp_path / "marks"
    marks.mkdir()
    run_job(job(place, tmp_path / "whole"), lambda: closing(Here(killing.by_length)))
    load = partial(killing.deadly, 1, marks)
    with pytest.raises(ArtifactError, match="a worker process was ended, probably out of memory"):
        run_job(job(place, tmp_path / "out"), lambda: closing(processes(load)))
    assert run_job(job(place, tmp_path / "out"), lambda: closing(processes(load))).kept > 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.usefixtures("ray_room")
def test_an_actor_that_is_ended_costs_nothing_but_time(tmp_path: Path) -> None:
    place, marks = sources(tmp_path / "in"), tmp_path / "marks"
    marks.mkdir()
    run_job(job(place, tmp_path / "whole"), lambda: closing(Here(killing.by_length)))
    done = run_job(job(place, tmp_path / "out"), lambda: closing(on_ray(partial(killing.deadly, 2, marks))))
    assert len(list(marks.iterdir())) == 2  # processes that called os._exit(9)
    assert done.kept == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    (marks / "more").mkdir()
    with pytest.raises(ArtifactError, match="a worker was ended 4 times at the same part"):
        run_job(job(place, tmp_path / "never"), lambda: closing(on_ray(partial(killing.deadly, 99, marks))))


def test_a_part_that_fails_does_not_keep_the_others(tmp_path: Path, engine: Callable[[GetPredictor], Engine]) -> None:
    """Bytes that CSV cannot hold in part 3 of one file, a damaged row group in another: the same by one worker and by two."""
    place = tmp_path / "in"
    place.mkdir()
    texts = [f"row {'y' * (i % 9)}" for i in range(95)]
    cells = pa.array([b"\xff" if i == 35 else None for i in range(95)], type=pa.binary())
    pq.write_table(pa.table({"text": texts, "raw": cells}), place / "a.parquet")
    pq.write_table(pa.table({"text": texts}), place / "b.parquet", row_group_size=10, use_dictionary=False)
    whole, column = (place / "b.parquet").read_bytes(), pq.read_metadata(place / "b.parquet").row_group(4).column(0)
    begin, end = column.data_page_offset, column.data_page_offset + column.total_compressed_size
    (place / "b.parquet").write_bytes(whole[:begin] + b"\xff" * (end - begin) + whole[end:])
    (place / "c.csv").write_text("text\nx\n")
    writes = Output(format="csv")
    alone = run_job(replace(job(place, tmp_path / "alone"), writes=writes), lambda: closing(Here(killing.by_length)))
    together = replace(job(place, tmp_path / "together"), writes=writes)
    assert counts(run_job(together, lambda: closing(engine(killing.by_length)))) == counts(alone)
    assert counts(alone) == (9 + 9 + 1, 85 + 85 + 1, 0, 2)
    assert "a cell is of type bytes" in alone.unread[0]
    assert "b.parquet: not a Parquet file, or truncated" in alone.unread[1]
    assert content(tmp_path / "alone") == content(tmp_path / "together")


def test_a_mistake_of_the_program_is_told_as_one(tmp_path: Path, engine: Callable[[GetPredictor], Engine]) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(ZeroDivisionError, match="a mistake of the program"):
        run_job(job(tmp_path / "a.csv", tmp_path / "out"), lambda: closing(engine(killing.wrong)))


def test_an_input_that_only_the_command_sees_is_told(tmp_path: Path, engine: Callable[[GetPredictor], Engine]) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["x"] * 30}).to_parquet(path)
    asked = job(path, tmp_path / "out")

    def gone(_: GetPredictor) -> Engine:
        found = engine(killing.by_length)
        real = found.submit

        def submit(unit: Unit) -> None:
            path.unlink(missing_ok=True)
            real(unit)

        found.submit = submit  # type: ignore[method-assign]
        return found

    with pytest.raises(DataError, match=r"a.parquet: cannot be read \(No such file or directory\)"):
        run_job(asked, lambda: closing(gone(killing.by_length)))


SCRIPT = """
from contextlib import closing
import os, sys
from pathlib import Path
from killing import slow
from lasttoken.predict.driver import run_job
from lasttoken.predict.engines import Processes
from test_engines import job

class Told(Processes):
    def submit(self, unit):
        super().submit(unit)
        print(self.pool.submit(os.getpid).result() if len(self.waiting) == 1 else "", flush=True)

if __name__ == "__main__":
    place = Path(sys.argv[1])
    run_job(job(place / "a.csv", place / "out"), lambda: closing(Told(slow, [{}, {}])))
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_command(tmp_path: Path, kind: signal.Signals) -> None:
    """A command that is killed leaves no process that holds a GPU; one that is stopped ends at once, nothing half-written."""
    (tmp_path / "a.csv").write_text("text\n" + "x\n" * 30)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "out").mkdir()
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(killing.__file__).parent)])
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}
    ) as command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        assert alive(worker)
        (tmp_path / "out/.00000-a-000000.csv.1-aa.part").touch()  # of a worker in the middle of a part
        command.send_signal(kind)
        command.wait(30)
    ends = time.monotonic() + 10
    while time.monotonic() < ends and alive(worker):
        time.sleep(0.05)
    assert not alive(worker)
    if kind == signal.SIGINT:
        assert list((tmp_path / "out").iterdir()) == []


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_which_workers_a_machine_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("linear", "embedding"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "config.toml").write_text(f'[data]\nsource = "a.csv"\n[method]\nmethod = "{method}"\n')

    def places(method: str, device: str, workers: int | None) -> list[Place]:
        return places_of(Loading(tmp_path / method, device), workers)

    monkeypatch.setattr("lasttoken.predict.placing.threads", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places("linear", "auto", None) == [{"OMP_NUM_THREADS": "1"}] * 4
    assert places("embedding", "cpu", None) == [{"OMP_NUM_THREADS": "4"}]
    assert places("embedding", "cpu", 2) == [{"OMP_NUM_THREADS": "2"}] * 2
    assert places("embedding", "auto", None) == [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(3)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # CUDA counts those that are there
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb,9")
    assert places("embedding", "auto", None) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("GPU-aa", "GPU-bb")]
    assert places("embedding", "cuda", 1) == [{"CUDA_VISIBLE_DEVICES": "GPU-aa"}]
    with pytest.raises(
        ConfigError, match="--workers 3: each takes a GPU, and this machine has 2; give fewer, or --device cpu"
    ):
        places("embedding", "cuda", 3)
    loading = Loading(tmp_path / "embedding", "cpu", precision="auto")
    with (
        pytest.raises(ConfigError, match="--precision auto: workers could choose differently"),
        engine_of(loading, "local", 2, print),
    ):
        pass


def test_which_workers_a_cluster_has_room_for() -> None:
    big, small, head = {"CPU": 64.0}, {"CPU": 4.0}, {"memory": 1.0}
    assert fitting([big, small, head], None, gpus=1.0, cpus=None) == Room(17, 4.0, 0.0)
    assert fitting([big, small, head], None, gpus=0.0, cpus=1) == Room(68, 1.0, 0.0)
    assert fitting([{"CPU": 8.0}, head], 4, gpus=0.0, cpus=None) == Room(4, 2.0, 0.0)
    gpus = [{"CPU": 16.0, "GPU": 4.0}, big]
    assert fitting(gpus, None, gpus=1.0, cpus=None) == Room(4, 1.0, 1.0)
    assert [fitting(gpus, None, gpus=share, cpus=None).workers for share in (0.5, 0.3, 0.1)] == [8, 12, 16]
    assert fitting(gpus, 3, gpus=1.0, cpus=None).workers == 3
    with pytest.raises(
        ConfigError, match="5 workers of 1 GPUs and 1 CPU do not fit into the cluster's 2 machines, 4 do"
    ):
        fitting(gpus, 5, gpus=1.0, cpus=None)
    with pytest.raises(ConfigError, match="0 do; add machines"):
        fitting([head], None, gpus=0.0, cpus=None)


def test_every_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    source, seen = tmp_path / "a.csv", tmp_path / "seen"
    source.write_text("text\n" + "x\n" * 200)
    seen.mkdir()
    engine = Processes(partial(killing.where, seen), [{"CUDA_VISIBLE_DEVICES": name} for name in ("GPU-aa", "GPU-bb")])
    assert run_job(job(source, tmp_path / "out"), lambda: closing(engine)).rows == 200
    assert sorted(path.read_text() for path in seen.iterdir()) == ["GPU-aa", "GPU-bb"]
