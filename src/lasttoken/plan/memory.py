"""Bytes of a fit, by formula: weights, what trains, optimiser states, and what a micro-batch keeps for its backward pass.

They follow what autograd saves in a block as this package runs it; `bench/speed/plan_memory.py` measures their error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lasttoken.config.footprint import Footprint
from lasttoken.plan.cards import Card
from lasttoken.plan.model_shape import ModelShape

FUSED_FROM = 1024  # tokens of a text from which attention on a CPU keeps no scores (model/attention.py)
LOGITS = 1024  # rows of vocabulary logits that exist at once (infer/scoring.py)
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # bytes a number in 4 bits with doubly quantised scales (arXiv:2305.14314)
STATES = {
    "adamw": 8,
    "adamw8bit": 2 + 8 / 256,
    "paged_adamw32bit": 0,
}  # bytes a number on a GPU; paged ones may leave it
MERGED_SHARE = 0.8  # of the device's memory that weights may take once adapters are merged (model/lora.py)


@dataclass(frozen=True, eq=False)
class Work:
    """A pass over rows, and its fullest micro-batch."""

    lengths: np.ndarray  # (B,) tokens of each text of that micro-batch, with its answers
    prefix: int = 0  # tokens of the prompt that all of them share
    answers: int = 0  # tokens of each text whose logits over the vocabulary are needed
    several: bool = False  # an update has several micro-batches
    batches: float = 1.0
    total: int = 0  # tokens of the whole pass

    @property
    def tokens(self) -> int:
        """Of the fullest micro-batch."""
        return int(self.lengths.sum()) + self.prefix


class Fit:
    """A method on a model and a device, in numbers."""

    def __init__(self, shape: ModelShape, plan: Footprint, card: Card, classes: int) -> None:
        self.shape, self.footprint, self.card, self.classes = shape, plan, card, classes
        self.whole = plan.trains == "everything"  # weights and hidden states are then float32
        self.compute = {"auto": card.itemsize, "bfloat16": 2, "float32": 4}[plan.precision]  # bytes of a number
        # blocks that are loaded (`layer` reads what enters its own), that learn, and their layers with an adapter
        self.depth = shape.depth if plan.layer is None else min(shape.depth, plan.layer + 1)
        self.learning = 0 if plan.trains in ("head", "nothing") else shape.depth - plan.frozen_blocks
        linears = shape.linears if plan.trains == "adapter" else ()
        self.adapted = [x for x in linears if plan.targets == "all-linear" or x.name in plan.targets]
        # tensors of scores that attention keeps: softmax's output; with a cap tanh's; with dropout noise and product
        self.capped = bool(shape.values.get("attn_logit_softcapping"))
        self.scores = 1 + 2 * bool(shape.values.get("attention_dropout")) + self.capped
        # numbers that do not train, and those that do, which are float32
        outside = shape.outside + shape.head * (plan.prompt is not None)
        self.frozen = 0 if self.whole else outside + self.depth * shape.block
        bias = plan.head_bias or plan.head == "mlp"
        head = (shape.width + bias) * {"none": 0, "linear": classes, "mlp": shape.width + classes}[plan.head]
        adapters = self.learning * sum(plan.rank * (x.inputs + x.outputs) for x in self.adapted)
        self.trained = head + (shape.parameters if self.whole else adapters)
        packed = self.depth * shape.matrices if plan.quantize == "nf4" else 0
        self.split = card.count if plan.shard else 1
        kept = outside * self.compute + self.held(self.depth * shape.block - packed, packed) / self.split
        gathered = self.held(shape.block, 0) * (self.split > 1)  # one block at a time, de-quantised
        self.loaded = round((0 if self.whole else kept) + gathered) + 4 * self.trained  # bytes
        # bytes of the optimiser's states; devices other than CUDA know AdamW in float32 alone
        self.states = round((STATES[plan.optimizer] if card.kind == "cuda" else 8) * self.trained)

    def held(self, numbers: int, packed: int) -> float:
        """Bytes of weights in the precision of computations, and of those that are packed into 4 bits."""
        return numbers * self.compute + packed * NF4


def merged_bytes(fit: Fit) -> int:
    """Bytes that merging adapters to predict takes beside the weights; 0 where model/lora.py finds no room for it."""
    dense = fit.learning * sum(x.inputs * x.outputs for x in fit.adapted) * fit.compute
    if not dense or not fit.footprint.merge or fit.split > 1 or fit.loaded + dense > MERGED_SHARE * fit.card.memory:
        return 0
    return dense + 3 * 4 * max(x.inputs * x.outputs for x in fit.adapted)  # W, B A and their sum, float32


def training_step(fit: Fit, work: Work, *, checkpointing: bool) -> tuple[int, int, int]:
    """Bytes of a micro-batch in training, beside what is loaded: (kept for the backward pass, for a moment, peak)."""
    filled = replace(work, lengths=-(-work.lengths // 16) * 16)  # as attention on a CPU has it
    block = block_bytes(fit, filled) if fit.learning else 0
    entering = fit.learning * filled.tokens * fit.shape.width * (4 if fit.whole else fit.compute)
    gradients, moment = 4 * fit.trained, moment_bytes(fit, filled, backward=fit.learning > 0)
    logits = 2 * 4 * work.answers * len(work.lengths) * fit.shape.vocabulary
    kept = logits + (block + entering if checkpointing else fit.learning * block)
    if work.several:  # gradients of an earlier micro-batch are there from the start
        return kept, moment, moment + kept + gradients
    last = block + gradients - 4 * fit.shape.outside * fit.whole if checkpointing else 0  # computed again at the end
    return kept, moment, moment + max(kept, gradients, last)


def block_bytes(fit: Fit, work: Work) -> int:
    """Bytes that autograd keeps of one block."""
    shape, c, size, plan = fit.shape, fit.shape.values, fit.compute, fit.footprint
    token = c["norms"] * shape.width * (size if "layer_norm" in c and not fit.whole else 4)  # RMSNorm keeps float32
    token += 4 * (shape.queries + shape.keys) * ("qk_norm" in c) + size * (shape.queries + 2 * shape.keys)
    token += size * shape.inner * (3 if "gated" in c else 4 if "gelu" in c else 1)  # gate, its activation and up
    if c.get("hidden_dropout"):  # a byte on a GPU, a factor on a CPU
        token += 2 * shape.width * (1 if fit.card.kind == "cuda" else size)
    if fit.whole:  # autocast copies what it reads for each layer, and the weights
        token += size * sum({x.name if size < 4 else x.reads: x.inputs for x in shape.linears}.values())
    else:
        token += size * (sum({x.reads: x.inputs for x in fit.adapted}.values()) + plan.rank * len(fit.adapted))
        token += sum(x.inputs for x in fit.adapted) if plan.lora_dropout else 0  # masks
        token += size * sum(x.inputs + 2 * x.outputs for x in fit.adapted) if plan.dora else 0  # PEFT's own forward
    copies = size * shape.matrices if fit.whole and size < 4 else 0
    return work.tokens * token + score_bytes(fit, work) * fit.scores + copies


def score_bytes(fit: Fit, work: Work) -> int:
    """Bytes of one tensor of attention scores; a fused kernel has none, but none of them knows a cap."""
    lengths, seen = work.lengths, work.lengths + work.prefix
    if not fit.capped:
        lengths = lengths * (seen < FUSED_FROM) * (fit.card.kind != "cuda")
    return int((lengths * seen).sum()) * fit.compute * fit.shape.heads


def moment_bytes(fit: Fit, work: Work, *, backward: bool = False) -> int:
    """Bytes of the widest moment of a block: of a batch that is predicted, or `backward` beside what is kept."""
    shape, size, scores = fit.shape, fit.compute, score_bytes(fit, work)
    logits = 4 * min(LOGITS, work.answers * len(work.lengths)) * shape.vocabulary  # of those that exist at once
    unpacked = max(x.inputs * x.outputs for x in shape.linears) * size if fit.footprint.quantize == "nf4" else 0
    if backward:
        attention = max(0, 3 - fit.scores) * scores + 4 * work.tokens * shape.width
        return unpacked + max(work.tokens * max(2 * shape.inner * size, 5 * 4 * shape.width), attention, logits)
    attention = work.tokens * 2 * (shape.queries + 2 * shape.keys) * size + 2 * scores
    states = work.tokens * 2 * shape.width * (4 if fit.whole else size)
    widest = max(work.tokens * max(3 * shape.inner * size, 3 * 4 * shape.width), attention, 3 * logits)
    return unpacked + states + widest
