"""Language models: loading, 4-bit quantisation, and forward passes on packed rows.

Every model is checked when it is loaded (`verify`): texts in one packed row must give the same hidden states as each
alone through the model's own forward. A model that fails (a state-space layer, an attention that ignores the
registered function) is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

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

from lasttoken.errors import ModelError
from lasttoken.model import llama_block, products
from lasttoken.model.attention import NAME, Layout, OtherLayout, lay_out
from lasttoken.model.device import describe_device
from lasttoken.model.files import TINY as TINY
from lasttoken.model.files import locate, not_found
from lasttoken.model.gguf import file_of, from_gguf, made_folder, origin_of, sampled_digest
from lasttoken.model.gguf_header import read_header
from lasttoken.model.gguf_tokenizer import read_tokenizer
from lasttoken.model.layer_taps import StopForward, Taps, blocks_of, install
from lasttoken.model.precision import choose_precision, shape_of
from lasttoken.model.quiet import quiet
from lasttoken.packages import SMOLLM2
from lasttoken.wording import first_line

Kind = Literal["decoder", "encoder", "any"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded model without its vocabulary head, its tokenizer, and their properties."""

    name: str  # as the user wrote it
    whole: PreTrainedModel  # as loaded by transformers
    module: nn.Module  # the part that returns last_hidden_state (1, T, H)
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig  # of the text model
    vocabulary: nn.Module | None  # hidden (n, H) -> logits (n, V); None unless requested
    device: torch.device
    compute: torch.dtype  # dtype of matrix products; weights may be wider
    causal: bool = True
    offset: int = 0  # added to positions: RoBERTa counts from its padding id + 1
    threads: int = 1  # CPU threads of one row; fixed at loading, because the order of sums depends on it
    told: str = ""  # why it computes in this dtype, for the user; empty where nothing was measured
    process: int = field(default_factory=os.getpid)  # id of the process that loaded it

    @property
    def precision(self) -> str:
        """`float32` or `bfloat16`: what matrix products are computed in, as the setting is written."""
        return "bfloat16" if self.compute == torch.bfloat16 else "float32"

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(blocks_of(self.module)[1])

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "a fitted language model is not pickled; write it with save(folder) and read it with lasttoken.load(folder)"
        )

    def check_process(self) -> None:
        """Raises ModelError in a fork of the process that loaded the model, where torch's threads would hang."""
        if os.getpid() != self.process:
            raise ModelError(
                f"model {self.name!r} was loaded before this process was forked, and torch's threads do not survive a fork; "
                "start processes by spawn (multiprocessing.get_context('spawn')), or load the model in each of them"
            )

    def autocast(self) -> torch.autocast:
        """The autocast context of forward passes: bfloat16 products, while float32 weights stay float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compute == torch.bfloat16)

    @property
    def window(self) -> int:
        """Maximum tokens of a text; 1,024 if the config does not say."""
        return longest_text(self.config) - self.offset

    def hidden(self, inputs: Tensor, layout: Layout | OtherLayout) -> Tensor:
        """Hidden states after the last block, (T, H), of a packed row of tokens (T,) or of input embeddings (T, H)."""
        self.check_process()
        sides = (0, 0) * (inputs.ndim - 1)
        whole = F.pad(inputs, (*sides, 0, layout.filler))
        out = self.module(
            **{"inputs_embeds" if inputs.is_floating_point() else "input_ids": whole[None]},
            position_ids=F.pad(layout.positions + self.offset, (0, layout.filler))[None],
            layout=layout,
            **({} if self.config.model_type in ENCODERS_WITHOUT_CACHE else {"use_cache": False}),
        )
        return out.last_hidden_state[0, : len(inputs)]

    def hidden_at(self, layers: Sequence[int], inputs: Tensor, layout: Layout) -> list[Tensor]:
        """Hidden states (T, H) at each of `layers`: layer k is the input of block k, layer `depth` the final output.

        Blocks above the highest layer requested do not run.
        """
        taps = Taps(layers)
        with suppress(StopForward):
            taps.states[self.depth] = self.hidden(inputs, replace(layout, taps=taps))
        return [taps.states[layer][: len(inputs)] for layer in layers]  # without the layout's filler


# settings of models that need all blocks: ALBERT repeats one block, Gemma 3n's upper blocks share keys
COUNTED = ("num_hidden_groups", "num_kv_shared_layers")
ENCODERS_WITHOUT_CACHE = {"modernbert"}  # forward passes unknown keywords, such as use_cache, on to attention


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's config. Raises ModelError, which says where was searched, if there is none."""
    try:
        return AutoConfig.from_pretrained(locate(name), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(not_found(name, error)) from error


def tokenizer_here(name: str) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer if it is on this machine, else None (a folder may hold only a config)."""
    files = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
    if from_gguf(name) and made_folder(name) is None:  # its tokenizer needs no weights
        return read_tokenizer(read_header(file_of(name)))
    folder = Path(locate(name))
    here = [folder / file for file in files] if folder.is_dir() else []
    cached = [] if here else [try_to_load_from_cache(name, file) for file in files]
    if not any(file.is_file() for file in here) and not any(isinstance(file, str) for file in cached):
        return None
    try:
        return AutoTokenizer.from_pretrained(locate(name), local_files_only=True)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    name: str  # of the hub, a folder, or tiny
    revision: str | None = None  # on the hub
    trust_remote_code: bool = False  # run code that comes with the model


def load(
    source: str | Source,
    *,
    kind: Kind,
    device: torch.device,
    precision: str = "auto",
    weights: torch.dtype | None = None,
    quantize: Literal["nf4", "none"] = "none",
    vocabulary: bool = False,
    blocks: int | None = None,
) -> Backbone:
    """The model, frozen, in eval mode, checked to be of `kind` and exact on packed rows.

    precision: of matrix products, `choose_precision`. weights: their dtype; None is that of the products. vocabulary:
    keep the vocabulary head (instruction tuning). blocks: number of lowest blocks to load; None is all.
    Raises ModelError if it cannot be loaded or used.
    """
    source = Source(source) if isinstance(source, str) else source
    name, where = source.name, {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    config = load_config(name, **where)
    refuse_unknown(name, config)
    if blocks is not None:
        keep_blocks(config.get_text_config(), blocks)
    chosen = choose_precision(device, precision, shape_of(config))
    dtype = weights or chosen.dtype
    quantization = nf4_config(name, device, dtype) if quantize == "nf4" else None
    auto = AutoModelForCausalLM if vocabulary else AutoModel
    extra = {"quantization_config": quantization, "device_map": {"": device}} if quantization else {}
    with room_for(name, device, quantize), quiet():
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
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        backbone = Backbone(
            name, model, trunk, tokenizer, trunk.config, head, device, chosen.dtype, threads=threads, told=chosen.told
        )
        install(trunk)
        products.install(model)
        llama_block.install(trunk)
        return verify(backbone, kind)


@contextmanager
def room_for(name: str, device: torch.device, quantize: str) -> Iterator[None]:
    """Turn an out-of-memory error inside into a ModelError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = (
            "a smaller model" if quantize == "nf4" else "a smaller model, or --quantize nf4 where the method has it"
        )
        raise ModelError(
            f"model {name!r}: {describe_device(device)} has no memory left for its weights; use {smaller}, or end other "
            "processes on it (`lasttoken plan` says what fits)"
        ) from error


def refuse_unknown(name: str, config: PretrainedConfig) -> None:
    """Raises ModelError on an encoder-decoder, and on chunked attention."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model {name!r} ({config.model_type}) is an encoder-decoder; use a decoder-only model or an encoder"
        )
    if "chunked_attention" in (getattr(config.get_text_config(), "layer_types", None) or ()):  # Llama 4
        raise ModelError(
            f"model {name!r} ({config.model_type}) attends in chunks counted from the start of a row, which would split "
            "a packed text at other places than a single one; use another model"
        )


def longest_text(config: PretrainedConfig) -> int:
    """Maximum tokens of a text: max_position_embeddings; with longrope positions, the original length before extension.

    Longrope frequencies change for a whole row once one text is longer (transformers' `longrope_frequency_update`), so
    a short text's output would depend on its neighbours.
    """
    most = int(getattr(config, "max_position_embeddings", None) or 1024)
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (
        ropes,
        *(inner for inner in ropes.values() if isinstance(inner, dict)),
    ):  # one, or one per kind of layer
        if rope.get("rope_type") == "longrope":
            most = min(most, int(rope.get("original_max_position_embeddings") or most))
    return most


def keep_blocks(config: PretrainedConfig, blocks: int) -> None:
    """Limit `config`, in place, to its lowest `blocks` blocks; models in COUNTED keep all."""
    if any(getattr(config, name, None) for name in COUNTED):
        return
    config.num_hidden_layers = min(blocks, config.num_hidden_layers)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = kinds[: config.num_hidden_layers]


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The text part of a multimodal model (Gemma 3, Qwen 3.5...), else the model itself (unsloth #6036)."""
    inner = getattr(model, "language_model", None)
    return model if inner is None else inner


def logit_scale(config: PretrainedConfig) -> float:
    """What a model multiplies its vocabulary logits by."""
    return getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)


class VocabularyHead(nn.Module):
    """Hidden states (n, H) -> vocabulary logits (n, V) float32, with the soft cap or scale of the model's config."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.projection: Any = model.get_output_embeddings()
        self.cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self.scale = logit_scale(model.config.get_text_config())

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
    """How many linear layers are in 4 bits, as a sentence. Raises ModelError if none is."""
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
    """The backbone, switched to packed attention and checked to be exact. Raises ModelError if it is not.

    Also measures what configs leave unclear: whether the model is causal, and its first position id.
    """
    rng = np.random.default_rng(0)
    size = int(backbone.config.vocab_size)
    texts = [rng.integers(0, size, n) for n in (7, 5, beyond_window(backbone))]
    single = [one_by_one(backbone, text) for text in texts]  # before the switch: the model's own attention
    changed = np.r_[texts[0][:-1], (texts[0][-1] + 1) % size]
    causal = bool(torch.allclose(one_by_one(backbone, changed)[0], single[0][0], rtol=1e-3, atol=1e-3))
    if causal and kind == "encoder":
        raise ModelError(f"model {backbone.name!r} is a causal language model, not an encoder; use --method embedding")
    if not causal and kind == "decoder":
        raise ModelError(f"model {backbone.name!r} is an encoder (its tokens see both ways); use --method encoder")
    logits = (
        None if backbone.vocabulary is None else backbone.whole(input_ids=to_tensor(texts[1], backbone)[None]).logits[0]
    )
    backbone.whole.set_attn_implementation(NAME)
    layout = lay_out([len(text) for text in texts], causal=causal, device=backbone.device)
    wanted = torch.cat(single)
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
                and not close(candidate.vocabulary(single[1]), logits)
            ):
                raise ModelError(
                    f"model {backbone.name!r} ({backbone.config.model_type}) transforms its logits in an unsupported way"
                )
            return candidate
    raise ModelError(
        f"model {backbone.name!r} ({backbone.config.model_type}) gives other hidden states for packed texts than for single ones "
        "(a state-space layer, or its own position ids); it cannot be used"
    )


def beyond_window(backbone: Backbone) -> int:
    """A text length beyond a sliding window of up to 1,024 tokens; 6 without such a window."""
    window = getattr(backbone.config, "sliding_window", None)
    return min(window + 8, backbone.window) if window and window <= 1024 else 6


def close(a: Tensor, b: Tensor, *, bound: float = 0.05) -> bool:
    """Equal up to rounding, relative to the norm of `b`. bound: tolerance for bfloat16; 1e-3 for float32."""
    bound = bound if a.dtype == torch.bfloat16 or b.dtype == torch.bfloat16 else 1e-3
    return bool((a.float() - b.float()).norm() <= bound * b.float().norm())


def one_by_one(backbone: Backbone, ids: np.ndarray) -> Tensor:
    """Hidden states (T, H) of one text through the model's own forward, not packed."""
    return backbone.module(input_ids=to_tensor(ids, backbone)[None]).last_hidden_state[0]


def to_tensor(ids: np.ndarray | Sequence[int], backbone: Backbone) -> Tensor:
    """Ids as int64 on the backbone's device."""
    return torch.as_tensor(np.asarray(ids, dtype=np.int64), device=backbone.device)


def fingerprint(name: str) -> str | None:
    """sha256 of a local folder's weight and config files (names, sizes, first and last MiB); None for a hub model.

    Of a GGUF file, and of a folder that was made from it, the digest of parts of that file; None where it is missing.
    Detects that a folder holds another model than the one a run was trained on, without reading large files.
    """
    if from_gguf(name):  # by the file: what libraries make of it may differ by version
        return sampled_digest(file_of(name)) if name == SMOLLM2 or Path(name).is_file() else None
    folder = Path(locate(name))
    if not folder.is_dir():
        return None
    if made_from := origin_of(folder):
        return made_from
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".json"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()
