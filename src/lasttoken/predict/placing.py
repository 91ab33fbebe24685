"""Which workers a job gets: those asked for, or as many as the machine or the cluster has room for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lasttoken.config.parse import read_run
from lasttoken.errors import ConfigError
from lasttoken.model.cpu_rates import threads
from lasttoken.predict.engines import Engine, Here, Place, Processes
from lasttoken.predict.options import Loading
from lasttoken.record.folder import is_export
from lasttoken.wording import counted

MOST = 61  # processes of a pool; Windows has room for no more


@contextmanager
def engine_of(loading: Loading, engine: str, workers: int | None, tell: Callable[[str], None]) -> Iterator[Engine]:
    """The workers of a job, ended with the block.

    workers: None: as many as there is room for. tell: is told what takes a while. Raises ConfigError where there is no room.
    """
    if engine == "ray":
        from lasttoken.cluster import joined, room
        from lasttoken.predict.on_ray import OnRay

        check_precision(loading)
        tell("joining the cluster")
        with joined():
            gpus = 1.0 if on_gpu(loading) else 0.0
            where = room(workers, gpus=gpus, cpus=1 if single_core(loading.run) else None)
            tell(f"loading the model in {counted(where.workers, 'worker', 'workers')}")
            with closing(OnRay(loading, where)) as actors:
                yield actors
        return
    places = places_of(loading, workers)
    if len(places) > 1:
        check_precision(loading)
        tell(f"loading the model in {len(places)} workers")
        with closing(Processes(loading, places)) as processes:
            yield processes
    else:
        tell("loading the model")
        yield Here(loading)


def check_precision(loading: Loading) -> None:
    """Raises ConfigError where each worker would choose a precision of its own."""
    if loading.precision == "auto" and not single_core(loading.run):
        raise ConfigError(
            ["--precision auto: workers could choose differently; name float32 or bfloat16, or --workers 1"]
        )


def single_core(run: Path) -> bool:
    """Whether a run computes on one core: without a language model, whose operations use all cores or a GPU."""
    return not is_export(run) and read_run(run / "config.toml").method.method == "linear"


def on_gpu(loading: Loading) -> bool:
    """Whether a predictor computes on a GPU where there is one; exported models do not."""
    return loading.device not in ("cpu", "mps") and not is_export(loading.run) and not single_core(loading.run)


def places_of(loading: Loading, workers: int | None) -> list[Place]:
    """The environments of `workers` processes; None: one for each GPU, one for each core without a language model, else one.

    Raises ConfigError where there are fewer GPUs.
    """
    cores = threads()
    if single_core(loading.run):
        return [{"OMP_NUM_THREADS": "1"}] * min(workers or cores, MOST)
    cards = visible_cards() if on_gpu(loading) else []
    if cards and workers is not None and workers > len(cards):
        raise ConfigError(
            [f"--workers {workers}: each takes a GPU, and this machine has {len(cards)}; give fewer, or --device cpu"]
        )
    if cards:
        return [{"CUDA_VISIBLE_DEVICES": card} for card in cards[:workers]]
    return [{"OMP_NUM_THREADS": str(max(1, cores // (workers or 1)))}] * min(workers or 1, MOST)


def visible_cards() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    given = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    return given[:count] or [str(i) for i in range(count)]
