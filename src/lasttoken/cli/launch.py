"""`--gpus N`: the same command in N processes of this machine, one for each GPU, by PyTorch's launcher."""

from __future__ import annotations

import logging
import sys
import uuid

from lasttoken.errors import ConfigError


def wanted(gpus: int | None) -> bool:
    """Whether this process should start others: several are asked for, and it is not one of them itself."""
    from lasttoken.train.distributed import launched

    return gpus is not None and gpus > 1 and not launched()


def start(gpus: int, device: str) -> int:
    """Run this process's command line in that many processes; the exit code of the first that failed, else 0.

    Raises ConfigError if the machine has fewer GPUs. With device = cpu the processes share the CPU.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    there = torch.cuda.device_count()
    if device != "cpu" and there < gpus:
        raise ConfigError(
            [f"--gpus: {gpus} asked for, this machine has {there}; --device cpu runs processes on the CPU"]
        )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=gpus,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "lasttoken.cli.main", *sys.argv[1:])
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0
