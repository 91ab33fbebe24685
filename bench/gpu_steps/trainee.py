"""Models to be trained, with random weights, and what is measured while the package's own functions train them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np
from memory_models import LABELS, backbone_of, random_rows
from models import LORA, flops, tokenizer_of
from torch import Tensor

from gpu_steps.place import Place
from gpu_steps.profile import Profile
from lasttoken.config.methods import Embedding, Instruction
from lasttoken.config.settings import Training
from lasttoken.data.dataset import Dataset
from lasttoken.fitting.fit import Trained
from lasttoken.fitting.head import fit_head
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.instruction import fit_answers
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone
from lasttoken.model.device import Peak, peak_memory, reset_peak
from lasttoken.model.files import TINY
from lasttoken.model.pooling import Head
from lasttoken.text.prompt import Prompt, make_prompt

WARM = 2  # updates that are left out
NAMES = {"8B": "Llama-3.1-8B", "3B": "Llama-3.2-3B", "1B": "Llama-3.2-1B"}
Method = Literal["embedding", "instruction"]


@dataclass(frozen=True, eq=False)
class Trainee:
    """A model with an adapter, and the head or the prompt by which it is trained."""

    backbone: Backbone
    adapter: Any
    config: Embedding | Instruction
    head: Head | None = None
    prompt: Prompt | None = None

    @property
    def weights(self) -> list[Tensor]:
        """What is trained."""
        modules = [self.backbone.whole, *([] if self.head is None else [self.head])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def fit(self, data: Dataset, journal: Journal) -> Trained:
        """`fit_head` or `fit_answers` on the rows, validated on one of them."""
        both = data, data.take(np.array([0]))
        if isinstance(self.config, Embedding):
            assert self.head is not None
            return fit_head(self.backbone, self.head, both, self.config, seed=0, journal=journal)
        assert self.prompt is not None
        return fit_answers(self.backbone, self.prompt, both, self.config, seed=0, journal=journal, state=None)

    def but(self, **changes: Any) -> Trainee:
        """The same model under other settings of training."""
        return replace(self, config=with_training(self.config, **changes))


def with_training(config: Any, **changes: Any) -> Any:
    """The method's settings with others of training."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def trainee(size: str, method: Method, place: Place, *, quantize: Any = "none", batch: int = 8) -> Trainee:
    """A model of `size` on the device. Its learning rate changes next to nothing."""
    words = method == "instruction"
    backbone = backbone_of(
        NAMES[size], tokenizer_of(TINY), device=place.device, quantize=quantize, toy=place.toy, vocabulary=words
    )
    return ready(backbone, method, quantize=quantize, batch=batch, optimizer=place.optimizer)


def ready(backbone: Backbone, method: Method, *, quantize: Any, batch: int, optimizer: Any, **lora: Any) -> Trainee:
    """A loaded model, with an adapter and a head or a prompt."""
    settings = {"epochs": 1.0, "lr": 1e-6, "schedule": "constant", "warmup": 0.0, "batch": batch}
    chosen, how = LORA.model_copy(update=lora), Training(**settings, optimizer=optimizer)  # type: ignore[arg-type]
    adapter = adapt(backbone, **chosen.model_dump(), seed=0)
    if method == "instruction":
        config: Any = Instruction(model="tiny", quantize=quantize, lora=chosen, merge="off", train=how)
        return Trainee(backbone, adapter, config, prompt=make_prompt(backbone.tokenizer, LabelSpace(LABELS)))
    config = Embedding(
        model="tiny", quantize=quantize, lora=chosen, merge="off", head_init="random", max_length=1024, train=how
    )
    head = Head(backbone.width, len(LABELS), pooling=config.pooling).to(backbone.device).eval()
    return Trainee(backbone, adapter, config, head)


@dataclass(frozen=True, eq=False)
class Measured:
    """What a training came to."""

    trained: Trained
    lengths: np.ndarray  # (N,) tokens of each row
    batch: int
    peak: Peak
    profile: Profile | None
    notes: Sequence[str]

    @property
    def seconds(self) -> float:
        """Of an update: the median without warm-up and profiled ones."""
        last = None if self.profile is None else -self.profile.updates - 1
        return median(step.seconds for step in self.trained.steps[WARM:last])

    @property
    def rows_a_second(self) -> float:
        return self.batch / self.seconds

    def figures(self, trainee: Trainee, place: Place) -> dict[str, Any]:
        """Rates, share of the peak and memory."""
        needed = flops(trainee.backbone.config, self.lengths, training=True, rank=LORA.r) / len(self.lengths)
        reserved = {} if self.peak.reserved is None else {"reserved GB": self.peak.reserved / 1e9}
        return {
            "updates/s": 1 / self.seconds,
            "rows/s": self.rows_a_second,
            "tokens/s": self.rows_a_second * float(self.lengths.mean()),
            "share of peak": self.rows_a_second * needed / place.peak,
            f"{self.peak.kind} GB": self.peak.bytes / 1e9,
            **reserved,
            **({"notes": list(self.notes)} if any("memory" in note for note in self.notes) else {}),
        }


def measure(
    trainee: Trainee,
    kind: str,
    place: Place,
    *,
    updates: int,
    profiled: int = 0,
    each: Callable[[int], None] = lambda update: None,
) -> Measured:
    """A training of some updates on random rows of a `kind`; on CUDA the last `profiled` are looked into.

    each: called after every update.
    """
    batch, profiled = trainee.config.train.batch, profiled * place.cuda
    count = batch * (WARM + updates + profiled + (profiled > 0))  # one more, because the last one is validated
    data, lengths = random_rows(kind, count, trainee.backbone.tokenizer)
    profile = Profile(place.device, profiled) if profiled else None

    def progress(task: str, done: int, total: int) -> None:
        if not task.startswith("training") or not done:
            return
        each(done)
        if profile is not None and done == WARM + updates:
            profile.start()
        if profile is not None and done == WARM + updates + profiled:
            profile.stop()

    reset_peak(place.device)
    journal = Journal(progress=progress)
    trained = trainee.fit(data, journal)
    return Measured(trained, lengths, batch, peak_memory(place.device), profile, journal.notes)
