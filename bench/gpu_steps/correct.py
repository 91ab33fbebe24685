"""Whether a GPU computes what a CPU computes: attention kernels, losses, gradients, and training that runs out of memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from memory_models import random_rows
from models import tokenizer_of
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from gpu_steps.place import NEEDS_CUDA, Place
from gpu_steps.trainee import Method, Trainee, ready
from gpu_steps.training import empty
from lasttoken.data.dataset import Dataset
from lasttoken.journal import Journal
from lasttoken.model.files import TINY
from lasttoken.model.load import load
from lasttoken.model.varlen import verified_kernel

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
WIDTHS = (64, 96, 128, 256)
SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 8}
ROUNDING = {"float32": 1e-4, "bfloat16": 0.05}  # relative, of losses and gradients: sums in other orders, 4 blocks


def check(place: Place) -> None:
    """Kernels, then losses and gradients, then memory that runs out."""
    for width in WIDTHS:
        for prefix in (False, True):
            kernel: Any = verified_kernel(place.device, torch.bfloat16, width, prefix)
            name = f"kernel, heads of {width}{', with a prefix' if prefix else ''}"
            place.note(name, "none" if kernel is None else kernel.__name__, "none needs a slower way")
    folder = write_small(SMALL, place.work / "small")
    for method in ("embedding", "instruction"):
        compare_devices(folder, method, place)
    compare_checkpointing(folder, place)
    if not place.cuda:
        place.note("memory runs out", NEEDS_CUDA)
        return
    run_out(write_small(WIDE, place.work / "wide"), place)


def write_small(sizes: dict[str, int], folder: Path) -> Path:
    """A folder with a random Llama in float32 and the tokenizer of `tiny`."""
    tokenizer = tokenizer_of(TINY)
    ends = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048, **sizes, **ends
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small(folder: Path, method: Method, device: torch.device, precision: str, *, batch: int) -> Trainee:
    """The model in `folder` with the same weights on every device, its adapter's B no longer zero; no dropout."""
    backbone = load(str(folder), kind="decoder", device=device, precision=precision, vocabulary=method == "instruction")
    model = ready(backbone, method, quantize="none", batch=batch, optimizer="adamw", dropout=0.0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.weights:
            weight.copy_(0.05 * torch.randn(weight.shape, generator=draw))
    return model


def first_update(model: Trainee, data: Dataset) -> tuple[float, list[Tensor]]:
    """(loss, gradient of every trained weight in float32 on the CPU) of one update with all rows."""
    weights = model.weights
    kept: list[Tensor] = [torch.zeros(0)] * len(weights)

    def keep(place: int, weight: Tensor) -> None:
        assert weight.grad is not None
        kept[place] = weight.grad.float().cpu().clone()  # of the last micro-batch it is the sum

    handles = [
        weight.register_post_accumulate_grad_hook(lambda weight, place=place: keep(place, weight))
        for place, weight in enumerate(weights)
    ]
    try:
        trained = model.fit(data, Journal())
    finally:
        for handle in handles:
            handle.remove()
    return trained.steps[0].loss, kept


def apart(found: tuple[float, list[Tensor]], wanted: tuple[float, list[Tensor]]) -> dict[str, float]:
    """Relative differences of the loss, of all gradients in the L2 norm, and of the worst single one."""
    pairs = list(zip(found[1], wanted[1], strict=True))
    squares = [((a - b).norm().item() ** 2, b.norm().item() ** 2) for a, b in pairs]
    whole = sum(one for one, _ in squares) / sum(two for _, two in squares)
    worst = max(one / max(two, 1e-30) for one, two in squares)
    return {
        "loss": abs(found[0] / wanted[0] - 1),
        "gradients": whole**0.5,
        "worst gradient": worst**0.5,
    }


def compare_devices(folder: Path, method: Method, place: Place) -> None:
    """This device in float32 and in bfloat16 against a CPU in float32, on rows of mixed lengths."""
    rows = 6 if place.toy else 12
    data, _ = random_rows("mix", rows, tokenizer_of(TINY))
    wanted = first_update(small(folder, method, CPU, "float32", batch=rows), data)
    for precision, bound in ROUNDING.items():
        found = first_update(small(folder, method, place.device, precision, batch=rows), data)
        judge(f"{method}, {precision}, against a CPU in float32", apart(found, wanted), bound, place)


def compare_checkpointing(folder: Path, place: Place) -> None:
    """Gradients with activations computed again, against gradients with activations kept, in this device's own precision."""
    data, _ = random_rows("mix", 6, tokenizer_of(TINY))
    precision = "bfloat16" if place.cuda else "float32"
    plain, again = (
        first_update(small(folder, "embedding", place.device, precision, batch=6).but(checkpointing=how), data)
        for how in ("off", "on")
    )
    judge("activation checkpointing against none", apart(again, plain), ROUNDING[precision], place)


def judge(name: str, differences: dict[str, float], bound: float, place: Place) -> None:
    """Note differences, and whether they are within rounding."""
    right = differences["loss"] <= bound and differences["gradients"] <= bound
    place.note(name, {**differences, "right": right}, f"at most {bound:g}")


def run_out(folder: Path, place: Place) -> None:
    """Memory for half of what a forward pass takes, and for less than a backward pass takes: the losses are to be the same."""
    data, _ = random_rows("512", 32, tokenizer_of(TINY))
    whole = watched(small(folder, "embedding", place.device, "float32", batch=16), data)
    empty()
    place.note(
        "memory of the whole update, GB", {name: whole[name] / 1e9 for name in ("loaded", "forward", "backward")}
    )
    limits = {
        "forward": whole["loaded"] + 0.6 * (whole["forward"] - whole["loaded"]),
        "backward": 0.5 * (whole["forward"] + whole["backward"]),
    }
    for stage, limit in limits.items():
        model = small(folder, "embedding", place.device, "float32", batch=16)
        empty()
        with at_most(limit, place.device):
            found = watched(model, data)
        del model
        empty()
        differences = [abs(a / b - 1) for a, b in zip(found["losses"], whole["losses"], strict=True)]
        halved = [note for note in found["events"] if "out of memory" in note]
        place.note(
            f"memory runs out in {stage}",
            {
                "limit GB": limit / 1e9,
                "stage it came in": stage_of(found["events"]),
                "halved": halved,
                "largest difference of a loss": max(differences),
                "right": bool(halved) and max(differences) <= ROUNDING["float32"],
            },
            "halves its micro-batch and ends with the same losses",
        )


def watched(model: Trainee, data: Dataset) -> dict[str, Any]:
    """Losses of a training, its memory before, after the first forward pass and at most, and what happened in order."""
    assert model.head is not None
    torch.cuda.reset_peak_memory_stats()
    seen: dict[str, Any] = {"loaded": torch.cuda.memory_allocated(), "events": []}

    def backward(grad: Tensor) -> None:
        seen.setdefault("forward", torch.cuda.max_memory_allocated())
        seen["events"].append("backward begins")

    first = next(model.head.layers.parameters())  # its gradient is among the first to be computed
    handle = first.register_hook(backward)
    try:
        trained = model.fit(data, Journal(tell=seen["events"].append))
    finally:
        handle.remove()
    return seen | {"backward": torch.cuda.max_memory_allocated(), "losses": [step.loss for step in trained.steps]}


def stage_of(events: list[str]) -> str:
    """In what pass memory ran out first; `none` if it did not."""
    for before, event in zip(["", *events], events, strict=False):
        if event.startswith("out of memory"):
            return "backward" if before == "backward begins" else "forward"
    return "none"


@contextmanager
def at_most(limit: float, device: torch.device) -> Iterator[None]:
    """Let torch reserve no more than `limit` bytes."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def run_tests(place: Place) -> None:
    """`pytest -m gpu`, with its last lines."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--durations=5"]
    done = subprocess.run([*command, "tests/golden/test_gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    place.note("pytest -m gpu", {"exit code": done.returncode, "passed": passed(lines), "last lines": lines[-25:]})
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}: {lines[-1] if lines else 'no words'}")


def passed(lines: list[str]) -> int:
    """How many tests passed, by pytest's last line."""
    found = re.search(r"(\d+) passed", lines[-1]) if lines else None
    return int(found[1]) if found else 0
