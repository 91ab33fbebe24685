"""The check of every loaded model: how its texts share a forward pass, so that each gets the states it has alone.

Packed where that is exact, else in padded rows where that is; a model in which neither is exact is refused. Two
questions are asked of gradients, because small weights can hide the answer in values: whether a token sees later ones
(an encoder's does), and whether a packed text sees another. An exact zero is the only proof that it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ModelError
from lasttoken.model.attention import NAME
from lasttoken.model.backbone import Backbone, to_tensor, value_of
from lasttoken.model.kv_cache import KVCache, prefill
from lasttoken.model.layout import Layout, lay_out
from lasttoken.model.padded import chains, in_order
from lasttoken.wording import first_line

Kind = Literal["decoder", "encoder", "any"]
Hook = Callable[[Tensor], Tensor]
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
HEADER = 3  # tokens of the sample prompt
LONG = 70  # tokens of the longest sample text
TIGHT = 1e-3  # states that differ by less are the same in float32
ALIKE = 0.25  # states that differ by more are not those of the same text, however much a model amplifies rounding


@torch.no_grad()
def verify(backbone: Backbone, kind: Kind, *, unpackable: str = "") -> Backbone:
    """The backbone, set to run packed or padded and checked to be exact that way.

    unpackable: why packing need not be tried; empty where it is. Also measures what configs leave unclear:
    whether the model is causal, and its first position id. Raises ModelError for a model that is not of `kind`, and for
    one that gives other states for texts in a batch than for each alone.
    """
    with backbone.autocast():  # as in every forward pass
        return verified(backbone, kind, unpackable)


def verified(backbone: Backbone, kind: Kind, reason: str) -> Backbone:
    """`verify`, in the precision of the model's forward passes. reason: why packing need not be tried."""
    texts = sample_texts(backbone)
    try:
        single = [own_states(backbone, text) for text in texts]  # the model's own attention
        own_states(backbone, texts[0][:1])  # an empty text is one token; Funnel cannot read it
    except torch.OutOfMemoryError:
        raise  # says nothing about the model, here and below
    except FAILURES as error:
        raise ModelError(
            f"{called(backbone)} cannot read a single text: {first_line(error)}{or_float32(backbone)}"
        ) from error
    causal = is_causal(backbone, texts[0], single[0])
    if causal and kind == "encoder":
        raise ModelError(f"model {backbone.name!r} is a causal language model, not an encoder; use --method embedding")
    if not causal and kind == "decoder":
        raise ModelError(f"model {backbone.name!r} is an encoder (its tokens see both ways); use --method encoder")
    if backbone.vocabulary is not None:
        check_vocabulary(backbone, texts[1], single[1])
    backbone = replace(backbone, causal=causal)
    answers = answers_alone(backbone) if causal else None
    bound = rounding(backbone, texts[0], single[0])
    if not reason:
        found, reason = packed(backbone, texts, single, answers, bound)
        if found is not None:
            return found
    padded, differs = in_padded_rows(backbone, texts, single, bound, reason)
    if padded is not None:
        return padded
    raise ModelError(
        f"{called(backbone)} gives other hidden states for texts in a batch than for each alone: packed, {reason}; padded, "
        f"{differs}; it cannot be used{or_float32(backbone)}"
    )


def or_float32(backbone: Backbone) -> str:
    """What to try with a model that fails in 4 bits, or in bfloat16."""
    if getattr(backbone.whole, "is_quantized", False):
        return "; try --quantize none"
    return "; try --precision float32" if backbone.precision == "bfloat16" else ""


def called(backbone: Backbone) -> str:
    """The model and its type, for a message."""
    return f"model {backbone.name!r} ({backbone.config.model_type})"


def sample_texts(backbone: Backbone) -> list[np.ndarray]:
    """Three texts of random tokens without padding ids; one is longer than a sliding window of up to 1,024 tokens, and
    than the chunks of models that attend in chunks of up to 64."""
    rng, size = np.random.default_rng(0), int(backbone.config.vocab_size)
    texts = [rng.integers(0, size, n) for n in (7, 5, max(min(LONG, backbone.window), beyond_window(backbone)))]
    return [np.where(text == backbone.padding, (text + 1) % size, text) for text in texts]


def beyond_window(backbone: Backbone) -> int:
    """A text length beyond a sliding window of up to 1,024 tokens; 0 without such a window."""
    window = value_of(backbone.config, "sliding_window")
    return min(window + 8, backbone.window) if window and window <= 1024 else 0


def own_states(backbone: Backbone, ids: np.ndarray) -> Tensor:
    """Hidden states (T, H) of one text through the model's own attention, not packed."""
    return backbone.forward(to_tensor(ids, backbone)[None])


def packed(
    backbone: Backbone, texts: Sequence[np.ndarray], single: Sequence[Tensor], answers: Tensor | None, bound: float
) -> tuple[Backbone | None, str]:
    """(the backbone with packed attention, "") if that is exact, else (None, why not). answers: see `answers_alone`."""
    own = backbone.whole.config._attn_implementation or "eager"
    times = repeats(backbone, texts)
    layout = lay_out([len(text) for text in texts] * times, causal=backbone.causal, device=backbone.device)
    row, alone = to_tensor(np.concatenate([*texts] * times), backbone), torch.cat([*single] * times)
    try:
        backbone.whole.set_attn_implementation(NAME)
        worst = ""
        for offset in (0, 1 + backbone.padding):
            candidate = replace(backbone, offset=offset)
            states = candidate.hidden(row, layout)
            apart = difference(states, alone)
            if apart <= bound:
                if sees_others(candidate, texts):
                    worst = "texts see each other"
                    break
                if answers is not None and max(difference(x, answers) for x in answers_packed(candidate)) > bound:
                    worst = "a text does not see the prompt before it"
                    break
                return candidate, ""
            worst = worst or f"states differ by {apart:.0%}"
    except torch.OutOfMemoryError:
        raise
    except FAILURES:
        worst = "its attention cannot be packed"
    backbone.whole.set_attn_implementation(own)
    return None, worst


def sample_answers(backbone: Backbone, cached: KVCache | None = None) -> tuple[np.ndarray, Layout]:
    """(tokens (T,), layout) of a header, a text with two answers that share their beginning, and a text without.

    cached: the header's keys and values; its tokens are then not part of the row.
    """
    fork = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=bool)
    ids = np.random.default_rng(1).integers(0, int(backbone.config.vocab_size), HEADER + 11)
    ids = np.where(ids == backbone.padding, (ids + 1) % int(backbone.config.vocab_size), ids)
    layout = lay_out(
        [7, 4],
        prefix=HEADER,
        cached=None if cached is None else cached.states,
        trees=[fork, None],
        device=backbone.device,
    )
    return ids if cached is None else ids[HEADER:], layout


def answers_alone(backbone: Backbone) -> Tensor:
    """States (T, H) of `sample_answers`, each branch run alone through the model's own attention."""
    ids, layout = sample_answers(backbone)
    every = chains(layout)
    states = [own_states(backbone, ids[chain.tokens])[torch.from_numpy(chain.own)] for chain in every]
    return in_order(states, [to_tensor(chain.tokens[chain.own], backbone) for chain in every])


def answers_packed(backbone: Backbone) -> list[Tensor]:
    """States (T, H) of `sample_answers` in one packed row, with the header in the row and with it cached."""
    ids, layout = sample_answers(backbone)
    whole = backbone.hidden(to_tensor(ids, backbone), layout)
    behind, layout = sample_answers(backbone, prefill(backbone, ids[:HEADER]))
    return [whole, torch.cat([whole[:HEADER], backbone.hidden(to_tensor(behind, backbone), layout)])]


def repeats(backbone: Backbone, texts: Sequence[np.ndarray]) -> int:
    """How often the sample is in a packed row: beyond a window of up to 512 tokens, which some models hold a row to."""
    window, tokens = backbone.window, sum(len(text) for text in texts)
    return 1 + window // tokens if window <= 512 else 1


def in_padded_rows(
    backbone: Backbone, texts: Sequence[np.ndarray], single: Sequence[Tensor], bound: float, reason: str
) -> tuple[Backbone | None, str]:
    """(the backbone with padded rows, "") if that is exact, else (None, what differs). reason: why it is not packed."""
    told = (
        f"{backbone.name} runs in padded rows, which take 1.3 times (long texts) to 2.7 times (short ones) as long as packed "
        f"ones (packing is not exact for {backbone.config.model_type}: {reason})"
    )
    candidate = replace(backbone, padded=told)
    layout = lay_out([len(text) for text in texts], causal=backbone.causal, device=backbone.device)
    row = to_tensor(np.concatenate(texts), backbone)
    worst = ""
    for attention in ("sdpa", "eager"):
        try:
            backbone.whole.set_attn_implementation(attention)
            states = candidate.hidden(row, layout)
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            worst = first_line(error)
            continue
        apart = difference(states, torch.cat(list(single)))
        if apart > bound:
            worst = f"states differ by {apart:.0%}"
        elif (
            apart <= TIGHT
            or not sees_padding(candidate, texts[1])
            or apart <= 3 * noise_of(backbone, texts[0], single[0])
        ):
            return candidate, ""  # MobileBERT reads the token behind each, which is 0 where it is padding
        else:
            worst = "a text sees padding"
    return None, worst


def sees_padding(backbone: Backbone, text: np.ndarray) -> bool:
    """Whether states of a text depend on the padding behind it, by gradients; rounding in bfloat16 could hide it."""
    ids = to_tensor(np.r_[text, np.full(len(text), backbone.padding)], backbone)[None]
    mask = (torch.arange(2 * len(text), device=backbone.device) < len(text)).long()[None]
    pulls = gradients(backbone, lambda: backbone.forward(ids, mask=mask)[: len(text)])
    return pulls is not None and bool(pulls[:, len(text) :].any())


def check_vocabulary(backbone: Backbone, ids: np.ndarray, states: Tensor) -> None:
    """Raises ModelError if the vocabulary head gives other logits than the model itself."""
    assert backbone.vocabulary is not None
    logits = backbone.whole(input_ids=to_tensor(ids, backbone)[None]).logits[0]
    if difference(backbone.vocabulary(states), logits) > usual(backbone.compute):
        raise ModelError(f"{called(backbone)} transforms its logits in an unsupported way")


def difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|; infinite where the shapes differ or a value is not finite."""
    if a.shape != b.shape:
        return float("inf")
    found = ((a.float() - b.float()).norm() / b.float().norm()).item()
    return found if np.isfinite(found) else float("inf")


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, relative to the norm of `b`: 5 % where a value is bfloat16, else .1 %."""
    return difference(a, b) <= usual(a.dtype if a.dtype == torch.bfloat16 else b.dtype)


def usual(dtype: torch.dtype) -> float:
    """The relative difference by rounding to expect of a model of ordinary depth that computes in `dtype`."""
    return 0.05 if dtype == torch.bfloat16 else TIGHT


def rounding(backbone: Backbone, ids: np.ndarray, states: Tensor) -> float:
    """The relative difference by rounding to allow: `usual`, or three times what this model itself makes of rounding.

    Deep models amplify it (docs/lab.md).
    """
    return min(ALIKE, max(usual(backbone.compute), 3 * noise_of(backbone, ids, states)))


def noise_of(backbone: Backbone, ids: np.ndarray, states: Tensor) -> float:
    """How far the states (T, H) of a text move, relatively, when its input embeddings move by one unit in the last place.

    0 where that cannot be tried.
    """
    unit = torch.finfo(backbone.compute).eps / 2

    def moved(embedded: Tensor) -> Tensor:
        signs = torch.ones_like(embedded)
        signs.view(-1)[::2] = -1
        return embedded * (1 + unit * signs)

    try:
        with through_embeddings(backbone, moved):
            return difference(own_states(backbone, ids), states)
    except FAILURES:
        return 0.0


def is_causal(backbone: Backbone, ids: np.ndarray, states: Tensor) -> bool:
    """Whether no token's states depend on later ones: by gradients, else by changing the last token of a text (T,)."""
    pulls = gradients(backbone, lambda: own_states(backbone, ids)[0])
    if pulls is not None and pulls.shape[1] == len(ids):
        return not bool(pulls[0, 1:].any())
    changed = np.r_[ids[:-1], (ids[-1] + 1) % int(backbone.config.vocab_size)]
    return torch.equal(own_states(backbone, changed)[:-1], states[:-1])


def sees_others(backbone: Backbone, texts: Sequence[np.ndarray]) -> bool:
    """Whether the second of packed texts depends on another one: by gradients, else by changing the others.

    Bits alone would not do: experts sum in an order that depends on all texts.
    """
    lengths, size = [len(text) for text in texts], int(backbone.config.vocab_size)
    layout = lay_out(lengths, causal=backbone.causal, device=backbone.device)
    mine = slice(lengths[0], lengths[0] + lengths[1])
    row, others = np.concatenate(texts), np.concatenate([(text + 1) % size for text in texts])
    others[mine] = row[mine]
    pulls = gradients(backbone, lambda: backbone.hidden(to_tensor(row, backbone), layout)[mine])
    if pulls is None:
        before, after = (backbone.hidden(to_tensor(ids, backbone), layout)[mine] for ids in (row, others))
        return not torch.equal(before, after)
    pulls[0, mine] = False
    return bool(pulls.any())


def gradients(backbone: Backbone, run: Callable[[], Tensor]) -> Tensor | None:
    """Where the states of `run` have a gradient on the input embeddings of its one forward pass, (1, T) bool.

    None where that cannot be told: an operation has no gradient, or one is not finite.
    """
    inputs: list[Tensor] = []

    def watched(embedded: Tensor) -> Tensor:
        inputs.append(embedded.detach().requires_grad_())
        return inputs[-1]

    try:
        with torch.enable_grad(), through_embeddings(backbone, watched):
            states = run().float()
            weights = torch.linspace(0.5, 1.5, states.numel(), device=states.device).view_as(states)
            found = torch.autograd.grad((states * weights).sum(), inputs, allow_unused=True)
    except FAILURES:
        return None
    if len(found) != 1 or found[0] is None or not torch.isfinite(found[0]).all():
        return None
    return (found[0] != 0).any(dim=-1)


@contextmanager
def through_embeddings(backbone: Backbone, change: Hook) -> Iterator[None]:
    """A context in which the output of the token embeddings is what `change` makes of it."""
    named = cast("Any", backbone.module).get_input_embeddings()
    layers = [m for m in backbone.module.modules() if m is named or same_table(m, named)]  # T5 runs a tied one
    handles = [
        layer.register_forward_hook(lambda _module, _given, output: change(cast("Any", output))) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def same_table(module: nn.Module, other: nn.Module) -> bool:
    """Whether both are embeddings with the same weights."""
    return isinstance(module, nn.Embedding) and isinstance(other, nn.Embedding) and module.weight is other.weight
