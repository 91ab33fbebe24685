"""Bytes that `lasttoken plan` predicts for a training step, against those that random models really take on a CPU.

    python bench/speed/plan_memory.py [--dtype float32] [--only llama,bert] [--blocks 4]

Every tensor is followed from the operation that makes it to its end (meter.py), so the figures repeat to the byte. One
micro-batch goes forward and backward: LoRA on decoders, all weights of encoders; the vocabulary is small, so that
activations weigh.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from meter import Meter
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen3Config,
)

from lasttoken.config.methods import Embedding, Encoder
from lasttoken.config.settings import Lora
from lasttoken.fitting.memory import kept_bytes, recompute
from lasttoken.infer.batches import pack
from lasttoken.model import llama_block
from lasttoken.model.adapter import adapt
from lasttoken.model.files import TINY
from lasttoken.model.load import load
from lasttoken.model.pooling import Head
from lasttoken.plan.cards import Card
from lasttoken.plan.memory import Fit, Work, training_step
from lasttoken.plan.model_shape import load_shape
from lasttoken.text.batch import MicroBatch
from lasttoken.text.tokenizer import Encoded
from lasttoken.train.loss import class_loss

CPU = torch.device("cpu")
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 704, "max_position_embeddings": 1024}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 64}
IDS = {"vocab_size": 8192, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MODELS: dict[str, Callable[[int], PretrainedConfig]] = {
    "llama": lambda n: LlamaConfig(**GROUPED, **IDS, num_hidden_layers=n),
    "qwen3": lambda n: Qwen3Config(**GROUPED, **IDS, num_hidden_layers=n),
    "gemma2": lambda n: Gemma2Config(**GROUPED, **IDS, num_hidden_layers=n, attn_logit_softcapping=50.0),
    "phi3": lambda n: Phi3Config(**SIZES, **IDS, num_hidden_layers=n, original_max_position_embeddings=1024),
    "olmo2": lambda n: Olmo2Config(**SIZES, **IDS, num_hidden_layers=n),
    "mistral": lambda n: MistralConfig(**GROUPED, **IDS, num_hidden_layers=n, sliding_window=64),
    "bert": lambda n: BertConfig(**SIZES, **IDS, num_hidden_layers=n),
    "modernbert": lambda n: ModernBertConfig(**SIZES, **IDS, num_hidden_layers=n, cls_token_id=0, sep_token_id=1),
}
ENCODERS = ("bert", "modernbert")
LENGTHS = {"4 x 128": (128,) * 4, "mixed": (40, 38, 17, 90, 200, 12), "1 x 1,000": (1000,)}


@dataclass(frozen=True)
class Compared:
    """Predicted and measured bytes of one training step; a peak counts the weights."""

    predicted: tuple[int, int]  # (kept by autograd, peak)
    measured: tuple[int, int]

    @property
    def error(self) -> float:
        """Of the peak, as a share of what was measured."""
        return self.predicted[1] / self.measured[1] - 1


def compare(name: str, lengths: Sequence[int], *, dtype: str, checkpointing: bool, blocks: int = 4) -> Compared:
    """A step of the model `name` on texts of `lengths` tokens."""
    with tempfile.TemporaryDirectory() as folder:
        write(MODELS[name](blocks), folder, encoder=name in ENCODERS)
        config: Any = Embedding(model=folder, pooling="mean", lora=Lora())
        if name in ENCODERS:
            config = Encoder(model=folder, precision=dtype)
        card = Card("", "cpu", 1e12, 1e12, 2 if dtype == "bfloat16" else 4)
        fit = Fit(load_shape(folder), config.footprint(), card, 3)
        kept, _, peak = training_step(fit, Work(np.array(lengths)), checkpointing=checkpointing)
        with patch.object(llama_block, "groups_of", lambda *_: None):  # as on a GPU; on a CPU Llamas keep less
            measured = measure(config, lengths, getattr(torch, dtype), checkpointing=checkpointing)
        return Compared((kept, fit.loaded + peak), measured)


def write(config: PretrainedConfig, folder: str, *, encoder: bool) -> None:
    """A random float32 model of `config`, with the tokenizer of `tiny`."""
    torch.manual_seed(0)
    auto: Any = AutoModel if encoder else AutoModelForCausalLM
    auto.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)


def measure(config: Any, lengths: Sequence[int], dtype: torch.dtype, *, checkpointing: bool) -> tuple[int, int]:
    """(bytes that autograd keeps, the largest number alive, weights among them) of one step."""
    kind = "encoder" if config.method == "encoder" else "decoder"
    weights = torch.float32 if kind == "encoder" else dtype
    backbone = load(config.model, kind=kind, device=CPU, precision=str(dtype).removeprefix("torch."), weights=weights)
    if kind == "encoder":
        backbone.whole.requires_grad_(True)
    else:
        adapt(backbone, **config.lora.model_dump(), seed=0)
    head = Head(backbone.width, 3, pooling="mean")
    encoded = Encoded([np.arange(n, dtype=np.int32) % 200 + 5 for n in lengths], np.zeros(len(lengths), np.int64), 9999)

    def loss_and_count(micro: MicroBatch) -> tuple[Tensor, float]:
        batch = pack(encoded, micro.rows, backbone)
        with backbone.autocast():
            hidden = backbone.hidden(batch.inputs, batch.layout)
        return class_loss(head(hidden, batch.layout.ends), torch.zeros(len(micro.rows), dtype=torch.int64))

    rows = MicroBatch(np.arange(len(lengths)), 1, 0)
    kept = kept_bytes(backbone.whole, loss_and_count, rows)
    if checkpointing:
        recompute(backbone.whole)
    backbone.whole.train()
    meter, loaded = Meter(), [*backbone.whole.parameters(), *head.parameters()]
    with meter:
        for tensor in [*loaded, *backbone.whole.buffers()]:
            tensor.detach()  # shown to the meter
        base = meter.now
        meter.mark()
        loss_and_count(rows)[0].backward()
    return kept, meter.peak - base + sum(tensor.nbytes for tensor in loaded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", default=",".join(MODELS))
    parser.add_argument("--blocks", type=int, default=4)
    asked = parser.parse_args()
    print(f"{asked.dtype}: peak measured and predicted (MB), error; error of what autograd keeps")
    for name in asked.only.split(","):
        for told, lengths in LENGTHS.items():
            for checkpointing in (False, True):
                one = compare(name, lengths, dtype=asked.dtype, checkpointing=checkpointing, blocks=asked.blocks)
                kept = "" if checkpointing else f", kept {one.predicted[0] / one.measured[0] - 1:+.1%}"
                peak = f"{one.measured[1] / 1e6:7.1f} {one.predicted[1] / 1e6:7.1f}  {one.error:+.1%}"
                print(f"{name:10} {told:9} {'recomputed' if checkpointing else 'kept':10} {peak}{kept}", flush=True)


if __name__ == "__main__":
    main()
