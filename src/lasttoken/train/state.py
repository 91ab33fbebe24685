"""Training checkpoints: the state between two updates, in memory and on disk.

Everything random in an update (row order, dropout, sampled labels) is drawn from a seed of the update's number
(`lasttoken.seed`), so this state and the settings suffice to resume bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lasttoken.errors import ArtifactError
from lasttoken.train.outcome import Step

TENSORS, VALUES = "state.safetensors", "state.json"


@dataclass(frozen=True, eq=False)
class Best:
    """The weights with the highest validation score so far."""

    score: float
    update: int  # number of that update; 0: initial weights
    weights: list[Tensor]  # copies in main memory


class Keeper(Protocol):
    """Keeps a training's state, and knows of signals."""

    def after(self, state: TrainState) -> bool:
        """Asked after every update: whether the training is to end here. It may write the state."""
        ...

    def watching(self) -> AbstractContextManager[None]:
        """The context in which signals wait for `after`."""
        ...

    def remove(self) -> None:
        """Remove what was written: it is not needed any more."""
        ...


@dataclass(eq=False)
class TrainState:
    """Training state after `update` updates; an empty one starts from scratch.

    During training, `weights` are the live parameters and `running` is the live optimiser; `write` copies them. The
    state is complete between updates, when `fit` reports progress of the training.
    """

    update: int = 0
    weights: list[Tensor] = field(default_factory=list)  # trainable, in the order of the modules' parameters
    optimiser: dict[str, Any] = field(default_factory=dict)  # `state_dict` of a state read from disk
    best: Best | None = None
    highest: float = float("-inf")  # score after an update, without the initial weights' score
    stale: int = 0  # scores since `highest` last rose
    budget: int | None = None  # tokens of a micro-batch; None: not yet chosen
    recompute: bool = False  # activation checkpointing
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)
    running: torch.optim.Optimizer | None = None  # `write` saves its state instead of `optimiser`
    deadline: float = math.inf  # time.monotonic() at which training ends; not written, so that resuming is exact
    keeper: Keeper | None = None  # writes this state (train/checkpoints.py); not written itself

    def attach(self, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> None:
        """Bind the state to these modules and their optimiser, and restore what was read from disk into them.

        Raises ArtifactError if the weights' shapes differ.
        """
        live: list[Tensor] = [p for module in modules for p in module.parameters() if p.requires_grad]
        if self.weights:
            if [p.shape for p in live] != [w.shape for w in self.weights]:
                raise ArtifactError("the training state has other weights than this training; start again from scratch")
            kept, self.weights = self.weights, live
            self.put(kept)
            rates = [group["lr"] for group in optimizer.param_groups]
            saved = self.optimiser if self.running is None else self.running.state_dict()
            optimizer.load_state_dict(saved)
            check_dtypes(saved, optimizer)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # the peak rate, which the schedule scales
        self.weights, self.running, self.optimiser = live, optimizer, {}  # the running one has it all

    def advance(self, step: Step) -> None:
        """Record an update, and copy the weights if its score is the best so far."""
        self.update = step.number
        self.steps.append(step)
        if step.score is None:
            return
        self.stale = 0 if step.score > self.highest else self.stale + 1
        self.highest = max(self.highest, step.score)
        if self.best is None or step.score > self.best.score:
            self.best = Best(step.score, step.number, self.copied())

    def copied(self) -> list[Tensor]:
        """Copies of the weights in main memory."""
        return [p.detach().cpu().clone() for p in self.weights]

    @torch.no_grad()
    def put(self, values: Sequence[Tensor]) -> None:
        """Copy `values` into the live weights."""
        for parameter, value in zip(self.weights, values, strict=True):
            parameter.copy_(value)

    def write(self, folder: Path) -> None:
        """Write two files to an existing folder: tensors as safetensors, the rest as JSON."""
        tensors = {f"weights.{i}": p for i, p in enumerate(self.weights)}
        tensors |= {f"best.{i}": p for i, p in enumerate(self.best.weights if self.best else [])}
        optimiser = self.optimiser if self.running is None else self.running.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for number, entries in optimiser.get("state", {}).items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
                else:
                    plain.setdefault(str(number), {})[name] = value
        tensors["update"] = torch.tensor(self.update)  # ties the two files together
        values = {
            "update": self.update,
            "best": None if self.best is None else {"score": self.best.score, "update": self.best.update},
            "highest": None if self.highest == float("-inf") else self.highest,
            "stale": self.stale,
            "budget": self.budget,
            "recompute": self.recompute,
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
            "optimiser": {"state": plain, "param_groups": optimiser.get("param_groups", [])},
        }
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, folder / TENSORS)
        (folder / VALUES).write_text(json.dumps(values, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> TrainState:
        """Read the files of `write`. Raises ArtifactError if they are missing or damaged."""
        try:
            tensors = load_file(folder / TENSORS)
            values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
            if int(tensors.pop("update")) != values["update"]:
                raise ValueError("its files are of two states")
            best, optimiser = values.pop("best"), values.pop("optimiser")
            states: dict[int, dict[str, Any]] = {int(k): dict(entries) for k, entries in optimiser["state"].items()}
            for name, tensor in tensors.items():
                if name.startswith("optimiser."):
                    _, number, key = name.split(".", 2)
                    states.setdefault(int(number), {})[key] = tensor
            return cls(
                **{
                    **values,
                    "weights": numbered(tensors, "weights"),
                    "best": best and Best(best["score"], best["update"], numbered(tensors, "best")),
                    "optimiser": {"state": states, "param_groups": optimiser["param_groups"]},
                    "highest": float("-inf") if values["highest"] is None else values["highest"],
                    "steps": [Step(**step) for step in values["steps"]],
                }
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder}: no complete training state ({error}); start the training again") from error


def check_dtypes(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raises ArtifactError where an optimiser has cast what it loaded, as torch does with states of 8 bits."""
    for number, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            before = saved["state"][number].get(name)
            if isinstance(value, Tensor) and isinstance(before, Tensor) and value.dtype != before.dtype:
                raise ArtifactError(
                    f"the optimiser's {name} was {before.dtype} and is {value.dtype} after loading; start the training again"
                )


def numbered(tensors: dict[str, Tensor], kind: str) -> list[Tensor]:
    """The tensors `kind`.0, `kind`.1, ... in order."""
    count = sum(name.startswith(f"{kind}.") for name in tensors)
    return [tensors[f"{kind}.{i}"] for i in range(count)]
