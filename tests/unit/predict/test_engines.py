"""Whoever the workers are, the folder is the same; one that is ended costs nothing but time, or says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import killing
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.data.read import Columns
from lasttoken.errors import ArtifactError, ConfigError, DataError, ModelError
from lasttoken.predict.engines import Engine, Here, Processes
from lasttoken.predict.file import Input, Output
from lasttoken.predict.job import Job, JobSummary
from lasttoken.predict.places import OutputFolder, inputs_of
from lasttoken.predict.placing import engine_of, places_of
from lasttoken.predict.run import run_job
from lasttoken.predict.worker import Load


def here(load: Load) -> Engine:
    return Here(load)


def processes(load: Load) -> Engine:
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


def on_ray(load: Load) -> Engine:
    from lasttoken.cluster import Room
    from lasttoken.predict.on_ray import OnRay

    return OnRay(load, Room(2, 0.5, 0.0))


@pytest.fixture(params=["processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Callable[[Load], Engine]:
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


def test_two_workers_write_what_one_writes(tmp_path: Path, engine: Callable[[Load], Engine]) -> None:
    place = sources(tmp_path / "in")
    alone = run_job(job(place, tmp_path / "alone"), here(killing.by_length))
    together = run_job(job(place, tmp_path / "together"), engine(killing.by_length))
    assert counts(alone) == counts(together) == (9 + 14 + 10, 96 - 8 + 95 + 95, 8, 1)
    assert content(tmp_path / "alone") == content(tmp_path / "together")
    frames = [pd.read_parquet(path) for path in sorted((tmp_path / "together").glob("00003-d-*.parquet"))]
    assert pd.concat(frames)["n"].tolist() == list(range(95))
    (tmp_path / "together/00003-d-000004.parquet").unlink()
    (tmp_path / "together/00000-a-000002.csv").unlink()
    again = run_job(job(place, tmp_path / "together"), engine(killing.by_length))
    assert (counts(again), again.kept) == (counts(alone), alone.parts - 2)
    assert content(tmp_path / "alone") == content(tmp_path / "together")


def test_mistakes_are_told_as_by_one(tmp_path: Path, engine: Callable[[Load], Engine]) -> None:
    place = sources(tmp_path / "in")
    with pytest.raises(ModelError, match="no such model"):
        run_job(job(place, tmp_path / "out"), engine(killing.missing))
    with pytest.raises(DataError, match="3 fields, expected 2"):
        run_job(job(place, tmp_path / "strict", strict=True), engine(killing.by_length))
    pd.DataFrame({"text": ["a"], "predicted_label": ["b"]}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match="has a column 'predicted_label' already"):
        run_job(job(tmp_path / "e.parquet", tmp_path / "taken"), engine(killing.by_length))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "taken").exists()


def test_a_process_that_is_ended_is_told_and_the_job_goes_on(tmp_path: Path) -> None:
    place, marks = sources(tmp_path / "in"), tmp_path / "marks"
    marks.mkdir()
    run_job(job(place, tmp_path / "whole"), here(killing.by_length))
    load = partial(killing.deadly, 1, marks)
    with pytest.raises(ArtifactError, match="a worker process was ended, for want of memory perhaps"):
        run_job(job(place, tmp_path / "out"), processes(load))
    assert run_job(job(place, tmp_path / "out"), processes(load)).kept > 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.usefixtures("ray_room")
def test_an_actor_that_is_ended_costs_nothing_but_time(tmp_path: Path) -> None:
    place, marks = sources(tmp_path / "in"), tmp_path / "marks"
    marks.mkdir()
    run_job(job(place, tmp_path / "whole"), here(killing.by_length))
    done = run_job(job(place, tmp_path / "out"), on_ray(partial(killing.deadly, 2, marks)))
    assert len(list(marks.iterdir())) == 2  # processes that called os._exit(9)
    assert done.kept == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    (marks / "more").mkdir()
    with pytest.raises(ArtifactError, match="a worker was ended 4 times"):
        run_job(job(place, tmp_path / "never"), on_ray(partial(killing.deadly, 99, marks)))


def test_workers_end_with_the_command(tmp_path: Path) -> None:
    """A command that is killed leaves no process that holds a GPU."""
    script = (
        "from killing import by_length; from lasttoken.predict.engines import Processes, outlived\n"
        "from test_engines import job; from pathlib import Path; import os, time\n"
        "if __name__ == '__main__':\n"
        "    engine = Processes(by_length, [{}]); place = Path(os.environ['PLACE'])\n"
        "    engine.start(job(place / 'a.csv', place / 'out'), None)\n"
        "    print(engine.pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "script.py").write_text(script)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(killing.__file__).parent)])
    words, environment = [sys.executable, str(tmp_path / "script.py")], {"PYTHONPATH": paths, "PLACE": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | environment) as command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        assert alive(worker)
        command.send_signal(signal.SIGKILL)
    ends = time.monotonic() + 10
    while time.monotonic() < ends and alive(worker):
        time.sleep(0.05)
    assert not alive(worker)


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
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert places_of(tmp_path / "linear", "auto", None) == [{"OMP_NUM_THREADS": "1"}] * 4
    assert places_of(tmp_path / "embedding", "cpu", None) == [{"OMP_NUM_THREADS": "4"}]
    assert places_of(tmp_path / "embedding", "cpu", 2) == [{"OMP_NUM_THREADS": "2"}] * 2
    assert places_of(tmp_path / "embedding", "auto", None) == [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(3)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb")
    assert places_of(tmp_path / "embedding", "cuda", 1) == [{"CUDA_VISIBLE_DEVICES": "GPU-aa"}]
    with pytest.raises(ConfigError, match="--workers: 3 asked for, this machine has 2 GPUs, each for one worker"):
        places_of(tmp_path / "embedding", "cuda", 3)
    with (
        pytest.raises(ConfigError, match=r"--engine: 'spark' is not among local, ray"),
        engine_of(tmp_path / "linear", {}, "spark", None, print),
    ):
        pass


def test_every_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    source, seen = tmp_path / "a.csv", tmp_path / "seen"
    source.write_text("text\n" + "x\n" * 200)
    seen.mkdir()
    engine = Processes(partial(killing.where, seen), [{"CUDA_VISIBLE_DEVICES": name} for name in ("GPU-aa", "GPU-bb")])
    assert run_job(job(source, tmp_path / "out"), engine).rows == 200
    assert sorted(path.read_text() for path in seen.iterdir()) in (["GPU-aa", "GPU-bb"], ["GPU-aa"], ["GPU-bb"])
