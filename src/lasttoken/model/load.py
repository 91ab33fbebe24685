"""Loading language models: from the hub, a folder or a GGUF file, in 16, 32 or 4 bits, checked before they are used."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTextEncoding,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, MODEL_MAPPING_NAMES

from lasttoken.errors import ModelError
from lasttoken.model import llama_block, norms, products
from lasttoken.model.backbone import Backbone
from lasttoken.model.device import describe_device
from lasttoken.model.files import TINY as TINY
from lasttoken.model.files import locate, not_found
from lasttoken.model.gguf import file_of, from_gguf, made_folder, origin_of, sampled_digest
from lasttoken.model.gguf_header import read_header
from lasttoken.model.gguf_tokenizer import read_tokenizer
from lasttoken.model.layer_taps import install
from lasttoken.model.lora_group import quant_state
from lasttoken.model.precision import choose_precision, shape_of
from lasttoken.model.quiet import quiet
from lasttoken.model.shard import shard
from lasttoken.model.verify import FAILURES, Kind, verify
from lasttoken.packages import SMOLLM2

# settings of models that need all blocks: ALBERT repeats one block, Gemma 3n's upper blocks share keys
COUNTED = ("num_hidden_groups", "num_kv_shared_layers")


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
    blocks: int | None = None  # number of lowest blocks to load; None is all


def load(
    source: str | Source,
    *,
    kind: Kind,
    device: torch.device,
    precision: str = "auto",
    weights: torch.dtype | None = None,
    quantize: Literal["nf4", "none"] = "none",
    vocabulary: bool = False,
    processes: int = 1,
) -> Backbone:
    """The model, frozen, in eval mode, checked to be of `kind` and exact on batches of texts (model/verify.py).

    precision: of matrix products, `choose_precision`. weights: their dtype; None is that of the products. vocabulary:
    keep the vocabulary head (instruction tuning). processes: number of them that each keep a share of the blocks' weights
    (model/shard.py); 1 keeps all.
    Raises ModelError if it cannot be loaded or used.
    """
    source = Source(source) if isinstance(source, str) else source
    config = load_config(source.name, revision=source.revision, trust_remote_code=source.trust_remote_code)
    refuse_encoder_decoder(source.name, config, kind)
    how = How(kind, device, precision, weights, quantize, vocabulary, processes)
    if source.blocks is not None:
        fewer = copy.deepcopy(config)
        try:
            keep_blocks(fewer.get_text_config(), source.blocks)
            return load_as(source, fewer, how)
        except (ModelError, *FAILURES) as error:  # some models cannot be cut short, each by an error of its own
            if isinstance(error.__cause__, torch.OutOfMemoryError | OSError):
                raise
        whole = load_as(source, config, how)
        kept = f"{source.name} cannot be loaded in part: all its blocks are in memory"
        return replace(whole, told="; ".join(filter(None, (whole.told, kept))))
    return load_as(source, config, how)


class How(NamedTuple):
    """The options of `load`."""

    kind: Kind
    device: torch.device
    precision: str
    weights: torch.dtype | None
    quantize: Literal["nf4", "none"]
    vocabulary: bool
    processes: int


def load_as(source: Source, config: PretrainedConfig, how: How) -> Backbone:
    """The model of that config, with the weights of `source`."""
    name, where = source.name, {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    kind, device, precision, weights, quantize, vocabulary, processes = how
    chosen = choose_precision(device, precision, shape_of(config))
    dtype = weights or chosen.dtype
    extra: dict[str, Any] = {"config": config, "dtype": dtype, "attn_implementation": "eager", **where}
    if quantize == "nf4":
        extra["quantization_config"] = nf4_config(name, device, dtype)
    if quantize == "nf4" or device.type == "cuda":  # from disk to the card, not through as much host memory
        extra["device_map"] = {"": device if processes == 1 else torch.device("cpu")}
    if device.type == "cuda":  # cuDNN plans each new length, 23 to 37 ms, and keeps every plan
        torch.backends.cuda.enable_cudnn_sdp(False)
    with room_for(name, device, quantize), quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(locate(name), **where)
            auto = class_for(config, vocabulary)
            model: Any = auto.from_pretrained(locate(name), **extra)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(not_found(name, error)) from error
        model.requires_grad_(False)
        model.eval()
        if quantize == "nf4" and device.type == "cpu":
            keep_packing_off(model)
        if quantize == "none" and processes == 1:
            model.to(device)
        trunk = decoder_of(model) if auto is AutoModelForCausalLM else text_model(model)
        head = VocabularyHead(model) if vocabulary else None
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        backbone = Backbone(
            name, model, trunk, tokenizer, trunk.config, head, device, chosen.dtype, threads=threads, told=chosen.told
        )
        install(trunk)
        products.install(model)
        if processes == 1:  # its output is a view, which FSDP warns of
            llama_block.install(trunk)
        if device.type == "cuda":
            norms.install(trunk)
        if processes > 1:
            shard(model, trunk, device, processes)
        found = verify(backbone, kind, unpackable=unpackable(config.get_text_config()))
    if processes > 1 and found.padded:  # each process would run another number of passes
        raise ModelError(f"train.shard: {found.padded}; weights are split for packed models alone, leave it out")
    return found


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


def refuse_encoder_decoder(name: str, config: PretrainedConfig, kind: Kind) -> None:
    """Raises ModelError on an encoder-decoder where a decoder is needed; its encoder may serve as an encoder."""
    if getattr(config, "is_encoder_decoder", False) and kind == "decoder":
        raise ModelError(
            f"model {name!r} ({config.model_type}) is an encoder-decoder; its encoder can be trained with --method encoder "
            "or read with --method probe"
        )


def class_for(config: PretrainedConfig, vocabulary: bool) -> Any:
    """The Auto class that loads a model; of an encoder-decoder its encoder alone, where transformers has that class.

    Changes such a config, in place, to that of the encoder.
    """
    if vocabulary or config.model_type not in MODEL_MAPPING_NAMES:
        return AutoModelForCausalLM
    encoders: Any = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    if encoders.get(config.model_type, "").endswith("EncoderModel"):
        config.is_encoder_decoder = False
        return AutoModelForTextEncoding
    return AutoModel


def unpackable(config: PretrainedConfig) -> str:
    """Why packing is not exact for a model although a short sample may not show it; empty where nothing speaks for it."""
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):  # Llama 4
        return "attention in chunks counted from the start of a row"
    if getattr(config, "attention_type", None) == "block_sparse":  # BigBird
        return "sparse attention whose pattern depends on the length of the batch"
    return ""


def keep_blocks(config: PretrainedConfig, blocks: int) -> None:
    """Limit `config`, in place, to its lowest `blocks` blocks; models in COUNTED keep all."""
    if any(getattr(config, name, None) for name in COUNTED):
        return
    before, config.num_hidden_layers = config.num_hidden_layers, min(blocks, config.num_hidden_layers)
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == before:  # layer_types, mlp_layer_types...
            setattr(config, name, value[: config.num_hidden_layers])


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a causal LM below its vocabulary head. Raises ModelError if there is none."""
    for inner in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(inner, PreTrainedModel) and inner is not model:
            return text_model(inner)
    raise ModelError(f"{model.config.model_type} has its vocabulary head in one piece with its blocks")


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The text part of a multimodal model (Gemma 3, Qwen 3.5...), the encoder of an encoder-decoder, else the model itself
    (unsloth #6036)."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    if model.config.get_text_config() is model.config:
        return model
    parts = (getattr(model, name, None) for name in ("language_model", "text_model"))
    return next((part for part in parts if part is not None), model)


def logit_scale(config: PretrainedConfig) -> float:
    """What a model multiplies its vocabulary logits by."""
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):
        scale *= getattr(config, name, None) or 1.0
    for name in ("logits_scaling", "logits_mup_width_multiplier"):
        scale /= getattr(config, name, None) or 1.0
    return scale


def logit_cap(config: PretrainedConfig) -> float | None:
    """The bound that a model's soft cap keeps its vocabulary logits within; None without one."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for cap in (getattr(config, name, None) for name in names) if cap), None)


class VocabularyHead(nn.Module):
    """Hidden states (n, H) -> vocabulary logits (n, V) float32, with the soft cap or scale of the model's config."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.projection: Any = model.get_output_embeddings()
        if self.projection is None:
            raise ModelError(f"{model.config.model_type} has no vocabulary head that can be run by itself")
        before = getattr(model, "lm_head", None)  # in ModernBertDecoder a layer of its own, else it is the projection
        own = before is not None and all(part is not self.projection for part in before.modules())
        self.before: Any = before if own else nn.Identity()
        self.cap = logit_cap(model.config.get_text_config())
        self.scale = logit_scale(model.config.get_text_config())

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.projection(self.before(hidden.to(self.projection.weight.dtype))).float() * self.scale
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
        if isinstance(m, Linear4bit)
        and m.weight.dtype == torch.uint8
        and getattr(quant_state(m), "quant_type", "") == "nf4"
    ]
    return len(packed), len(linears)


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
