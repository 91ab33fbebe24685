"""One micro-batch run on a skeleton: how many bytes it takes, and how much arithmetic, without doing any.

What is counted is what really happens. The package's own forward, loss and backward run, on tensors that have a shape
and a type and no numbers, while a meter follows every one from the operation that makes it to the moment when
the last reference to it is gone. So it holds for every architecture, for NF4, LoRA, packed attention and recomputing,
and changes when they change. In a block of a Llama it finds what one would write down: the inputs of both norms in
float32, the input of each adapted linear with its r-wide product (and on a GPU one byte a number of dropout mask),
queries, keys and values before and behind the rotation, attention weights where no fused kernel runs, gate, its
activation, up and their product.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.config import Embedding, Encoder, Instruction, Probe
from lasttoken.errors import ModelError
from lasttoken.methods.memory import recompute
from lasttoken.methods.scoring import CHUNK, lay_out_behind
from lasttoken.model.attention import Block, Layout, lay_out
from lasttoken.model.backbone import Backbone, first_line
from lasttoken.model.blocks import blocks_of, is_shortened
from lasttoken.model.depth import depth_of, tapped, with_blocks
from lasttoken.model.pooling import Pool, read_by
from lasttoken.plan.elsewhere import Elsewhere, acting_as
from lasttoken.plan.skeleton import Method, Skeleton
from lasttoken.text.tree import Tree
from lasttoken.train.loss import class_loss, label_loss


@dataclass(frozen=True, eq=False)
class Micro:
    """A micro-batch as far as memory and time depend on it."""

    lengths: tuple[int, ...]  # tokens of each text, its tree not counted
    prefix: int = 0  # tokens of the header they share
    trees: tuple[Tree, ...] | None = None  # what stands behind each text

    @property
    def counted(self) -> int:
        """Those that a budget counts: all but the header's."""
        return sum(self.lengths) + sum(len(tree.tokens) for tree in self.trees or ())

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prefix + self.counted


@dataclass(frozen=True)
class Rehearsed:
    """What a micro-batch took, beside what was loaded before."""

    tokens: int
    kept: int  # bytes that autograd keeps from forward to backward; 0 in prediction
    peak: int  # bytes, of activations, temporaries and gradients together
    pool: int  # of these, ready-made dropout, which stays (model/lora.py)
    flops: float
    operations: int


def rehearse(
    skeleton: Skeleton,
    micro: Micro,
    *,
    kind: str,
    multi: bool = False,
    train: bool = True,
    again: bool = False,
    checkpointing: bool = False,
    short: bool = True,
) -> Rehearsed:
    """A micro-batch forward, and backward where `train`, as on a device of `kind` (cpu, cuda or mps).

    multi: several labels a row. again: gradients of an earlier micro-batch are there already. short: run a few blocks of
    each sort and count them as often as they stand in the model. Raises ModelError where the model cannot be run
    without its numbers, or packs no texts.
    """
    if checkpointing and train:
        recompute(skeleton.backbone.whole)
    learner, span = skeleton.backbone, span_of(skeleton)
    runs = few_blocks(learner, span) if short and not isinstance(skeleton.config, Encoder) else []
    total = np.zeros(5)
    for blocks, weight in runs or [(span, 1)]:
        part = learner if len(blocks) == depth_of(learner) else with_blocks(learner, blocks)
        total += weight * np.array(run(skeleton, part, micro, kind, multi=multi, train=train, again=again))
    if checkpointing and train:
        skeleton.backbone.whole.activation_checkpointing_disable()
    kept, peak, pool, flops, operations = total.tolist()
    return Rehearsed(micro.tokens, round(kept), round(peak), round(pool), flops, round(operations))


def run(
    skeleton: Skeleton, learner: Backbone, micro: Micro, kind: str, *, multi: bool, train: bool, again: bool
) -> tuple[int, ...]:
    """(kept, peak, pool, flops, operations) of a micro-batch through `learner` and the skeleton's head."""
    meter, modules = skeleton.meter, skeleton.modules
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    layout = laid_out(micro, skeleton.config, causal=learner.causal, kind=kind)
    for module in modules:
        module.train(train)
    with ExitStack() as stack:
        for context in (skeleton.mode, meter, Elsewhere(kind, micro.tokens), torch.set_grad_enabled(train)):
            stack.enter_context(context)
        masks = stack.enter_context(acting_as(kind))
        base = meter.now
        layout = without_numbers(layout)
        for p in weights if again else []:
            p.grad = torch.zeros_like(p)
        held = meter.now
        meter.mark()
        try:
            loss = forward(skeleton, learner, micro, layout, multi=multi)
            kept = meter.now - held - masks.bytes if train else 0
            if train:
                loss.backward()
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{named(skeleton)} cannot be planned ({first_line(error)}); train it on a few rows to see what it takes"
            ) from error
        found = kept, meter.peak - base, masks.bytes, meter.flops, meter.operations
        for p in weights:
            p.grad = None
    if not layout.masks:
        raise ModelError(
            f"{named(skeleton)} does not use the attention that packed texts need (a state-space layer, or positions of "
            "its own); it cannot be used"
        )
    return found


def named(skeleton: Skeleton) -> str:
    """The model, for a sentence."""
    return f"model {skeleton.config.model!r} ({skeleton.backbone.config.model_type})"


def span_of(skeleton: Skeleton) -> range:
    """The blocks that run: all of them, those above the trunk, or those below the layer that is read."""
    config, depth = skeleton.config, depth_of(skeleton.backbone)
    if isinstance(config, Probe) and config.layer != "auto":
        return range(max(1, min(config.layer, depth)))
    return range(trunk_of(config), depth)


def trunk_of(config: Method) -> int:
    """The blocks at the bottom that are not trained, and whose states are kept."""
    return config.trunk if isinstance(config, Embedding) else 0


def few_blocks(backbone: Backbone, span: range) -> list[tuple[list[int], int]]:
    """Blocks to run and how often each run counts, so that the sum is that of all blocks of `span`.

    Blocks of one sort keep and compute the same, but for the lowest, below which nothing learns. Empty where that saves
    nothing, or the blocks cannot be taken out.
    """
    name, blocks = blocks_of(backbone.module)
    sorts = [sort_of(block) + "short" * is_shortened(block) for block in blocks]
    rest = span[1:]
    reference = [span[0], *sorted({sorts[i]: i for i in reversed(rest)}.values())]
    more = {i: sum(sorts[j] == sorts[i] for j in rest) - 1 for i in reference[1:]}
    twice = {i: next((j for j in rest if j != i and sorts[j] == sorts[i]), i) for i in more}
    runs = [(reference, 1 - sum(more.values()))]
    runs += [(sorted([*reference, twice[i]]), count) for i, count in more.items() if count]
    return runs if "." not in name and sum(len(part) for part, _ in runs) < len(span) else []


def sort_of(block: nn.Module) -> str:
    """What tells a block from others: the shapes of its weights and every plain attribute but its number."""
    shapes = [(name, tuple(p.shape), p.dtype) for name, p in block.named_parameters()]
    plain = [
        (name, key, value)
        for name, module in block.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and key != "layer_idx"
    ]
    return repr((type(block).__name__, shapes, plain))


def forward(skeleton: Skeleton, learner: Backbone, micro: Micro, layout: Layout, *, multi: bool) -> Tensor:
    """The loss of a micro-batch, a scalar; of a probe, the features of its last layer."""
    config = skeleton.config
    if isinstance(config, Embedding) and config.trunk:
        inputs = torch.empty(micro.tokens, learner.width, dtype=learner.compute)
    else:
        inputs = torch.empty(micro.tokens, dtype=torch.int64)
    with learner.autocast():
        if isinstance(config, Probe):
            layers = list(range(depth_of(learner) + 1)) if config.layer == "auto" else [depth_of(learner)]
            pool = Pool(config.pooling, learner.width)
            with tapped(learner, layers) as run:
                return [pool(states, layout.ends) for states in run(inputs, layout)][-1]
        hidden = learner.hidden(inputs, layout)
        if skeleton.head is None:
            return answer_loss(learner, hidden, micro)
    logits = skeleton.head(hidden, layout.ends)
    rows, classes = logits.shape
    if multi:
        return label_loss(logits, torch.empty(rows, classes, dtype=torch.bool))[0]
    return class_loss(logits, torch.empty(rows, dtype=torch.int64))[0]


def answer_loss(learner: Backbone, hidden: Tensor, micro: Micro) -> Tensor:
    """The loss of answers, by the steps of methods/scoring.py with places that nobody had to look up."""
    trees = micro.trees or ()
    places, predictions = (
        sum(len(part) for part in parts) for parts in zip(*((t.nodes, t.at) for t in trees), strict=True)
    )
    states = hidden[torch.empty(places, dtype=torch.int64)]  # (n, H)
    chosen = []
    for start in range(0, places, CHUNK):
        logits = learner.vocabulary(states[start : start + CHUNK])  # type: ignore[misc]  # (chunk, V) float32
        at = torch.empty(predictions * len(logits) // places, dtype=torch.int64)
        chosen.append(logits[at, at] - logits.logsumexp(dim=1)[at])
    return -torch.cat(chosen).sum()


def laid_out(micro: Micro, config: Method, *, causal: bool, kind: str) -> Layout:
    """The layout of a micro-batch, as training on a device of `kind` makes it."""
    if isinstance(config, Instruction):
        return lay_out_behind(micro.prefix, micro.lengths, micro.trees or (), kind=kind)
    return lay_out(micro.lengths, read=read_by(config.pooling, micro.lengths), causal=causal, kind=kind)


def without_numbers(layout: Layout) -> Layout:
    """The layout in stand-ins, which the context of the caller makes of new tensors.

    Without its stretches: where a GPU's kernel takes all texts at once (model/varlen.py), blocks are what is counted, which
    hold the padding that the kernel does without.
    """

    def bare(tensor: Any) -> Any:
        return None if tensor is None else torch.empty(tensor.shape, dtype=tensor.dtype)

    blocks = tuple(
        Block(bare(b.rows), bare(b.padding), bare(b.allowed), bare(b.positions), b.plain) for b in layout.blocks
    )
    parts = (layout.prefix, bare(layout.positions), bare(layout.ends), blocks, bare(layout.order), layout.filler)
    return Layout(*parts, read=bare(layout.read))
