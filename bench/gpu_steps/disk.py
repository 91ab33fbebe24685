"""Loading a checkpoint from disk: seconds, and main memory at most against the size of the file."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch
from memory_models import config_of, make
from models import tokenizer_of
from transformers import AutoModelForCausalLM

from gpu_steps.place import Place, seconds_of
from gpu_steps.trainee import NAMES
from lasttoken.model.files import TINY
from lasttoken.model.load import load

SCRIPT = Path(__file__).parents[1] / "gpu.py"


def write(place: Place) -> None:
    """A random 1B checkpoint in bfloat16 beside the file of the figures, in a process of its own: it takes memory too."""
    tokenizer, folder = tokenizer_of(TINY), place.out.parent
    config = config_of(NAMES["1B"], tokenizer, toy=place.toy)
    model = make(AutoModelForCausalLM, config, dtype=torch.bfloat16, device=place.device, attention="eager")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def from_disk(place: Place) -> None:
    """`load` of a checkpoint that was just written, so that it comes from the system's cache of files."""
    folder = place.work / "checkpoint"
    folder.mkdir()
    size, device = "toy" if place.toy else "full", place.device.type
    command = [sys.executable, str(SCRIPT), "--step", "write", "--out", str(folder / "figures.json")]
    subprocess.run([*command, "--size", size, "--device", device], check=True)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    torch.zeros(1, device=place.device)  # CUDA's own part of main memory is taken before
    before = host_peak()
    precision = "bfloat16" if place.cuda else "auto"
    seconds = seconds_of(
        lambda: load(str(folder), kind="decoder", device=place.device, precision=precision, vocabulary=True),
        place.device,
    )
    taken = host_peak() - before
    place.note(
        "load in bfloat16",
        {
            "seconds": seconds,
            "GB/s": weights / seconds / 1e9,
            "file GB": weights / 1e9,
            "host peak GB": taken / 1e9,
            "of the file": taken / weights,
        },
        "not above 1 of the file in main memory",
    )
    if place.quantize == "nf4":
        seconds = seconds_of(
            lambda: load(str(folder), kind="decoder", device=place.device, quantize="nf4"), place.device
        )
        place.note("load in NF4", {"seconds": seconds, "GB/s": weights / seconds / 1e9})


def host_peak() -> int:
    """Bytes of main memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
