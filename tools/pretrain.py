"""Pretrain `tiny`, the small Llama-architecture model that ships inside the package.

    python tools/pretrain.py --data ../shared/data --out src/lasttoken/model/tiny --tokens 26_000_000

Tokenizer: byte-level BPE, 8,192 tokens, trained on the same text. Model: 6.9 M parameters, tied embeddings.
Optimiser: Muon on the matrices of the blocks, AdamW on embeddings and norms; the learning rate falls to 0
over the second half, which also holds two of the three passes over the patents (the text closest to what the
model is used for). The run is one pass over a fixed plan of sequences and repeats from its seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
VOCABULARY = 8192
UPDATE = 8192  # tokens an update
SHORT, LONG = 256, 512  # tokens a sequence: in the first two thirds of the run, in the last


def read_corpus(data: Path) -> dict[str, list[str]]:
    """Documents by source: `patents` (title and abstract), `textbooks` and `novels` (paragraphs, some 1,000 characters)."""
    rows = (json.loads(line) for line in (data / "patents/train.jsonl").open(encoding="utf-8"))
    return {
        "patents": [f"{row['title']}. {row['abstract']}" for row in rows],
        "textbooks": [d for path in sorted((data / "corpus/openstax").glob("*.txt")) for d in group(path)],
        "novels": [d for path in sorted((data / "corpus/eltec").glob("*.txt")) for d in group(path)],
    }


def group(path: Path, characters: int = 1000) -> list[str]:
    """The paragraphs (lines) of a file, joined until each group has `characters` or more."""
    groups, current, size = [], [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            current.append(line.strip())
            size += len(line)
        if size >= characters:
            groups.append("\n".join(current))
            current, size = [], 0
    return [*groups, "\n".join(current)] if current else groups


def train_tokenizer(corpus: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of VOCABULARY tokens that puts BOS before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    balanced = corpus["patents"] + corpus["textbooks"] + corpus["novels"][::3]  # novels would drown the rest
    tokenizer.train_from_iterator(balanced, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=1024
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> list[np.ndarray]:
    """BOS, tokens, EOS of each document."""
    eos = tokenizer.eos_token_id
    return [np.array([*ids, eos], dtype=np.int32) for ids in tokenizer(documents)["input_ids"]]


def plan(encoded: dict[str, list[np.ndarray]], tokens: int, rng: np.random.Generator) -> np.ndarray:
    """The tokens of the run in order, (T,): patents three times, textbooks twice, novels for the rest.

    The first half holds one pass over patents and textbooks, the second half two and one.
    """
    size = {name: sum(map(len, documents)) for name, documents in encoded.items()}
    novels_wanted = max(0, tokens - 3 * size["patents"] - 2 * size["textbooks"])
    novels = [encoded["novels"][i] for i in rng.permutation(len(encoded["novels"]))]
    ends = np.cumsum([len(d) for d in novels])
    second_half = tokens // 2 - 2 * size["patents"] - size["textbooks"]
    cut, last = np.searchsorted(ends, [novels_wanted - max(0, second_half), novels_wanted])
    halves = [
        encoded["patents"] + encoded["textbooks"] + novels[:cut],
        encoded["patents"] * 2 + encoded["textbooks"] + novels[cut:last],
    ]
    return np.concatenate([half[i] for half in halves for i in rng.permutation(len(half))])


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model with fresh weights. Every in_features is a multiple of 64, which NF4 on CPU needs."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def language_loss(model: LlamaForCausalLM, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, nats a token. inputs, targets: (B, T) int64."""
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        logits = model(input_ids=inputs).logits  # (B, T, V)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def block(stream: np.ndarray, start: int, length: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """UPDATE tokens from `start` as inputs and targets (UPDATE / length, length)."""
    tokens = torch.from_numpy(stream[start : start + UPDATE + 1].astype(np.int64)).to(device)
    return tokens[:-1].view(-1, length), tokens[1:].view(-1, length)


@torch.no_grad()
def held_out(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, data: Path) -> tuple[float, int]:
    """Nats a token on the patents that no sequence of training holds, and how many tokens that is."""
    rows = [json.loads(line) for line in (data / "patents/valid.jsonl").open(encoding="utf-8")]
    stream = np.concatenate(encode(tokenizer, [f"{row['title']}. {row['abstract']}" for row in rows]))
    starts = range(0, len(stream) - UPDATE - 1, UPDATE)
    losses = [language_loss(model, *block(stream, start, SHORT, str(model.device))) for start in starts]
    return float(torch.stack(losses).mean()), len(starts) * UPDATE


def card(facts: dict[str, Any]) -> str:
    """The model card, README.md of the model's folder."""
    sizes = facts["tokens_by_source"]
    return f"""---
license: apache-2.0
library_name: transformers
tags: [llama, base, tiny]
---

# tiny

The language model inside `lasttoken`, for tests, demonstrations and laptops without a network. A base model: it has
never seen an instruction. It is not meant to win against models a hundred times its size.

- Architecture: Llama, {facts["parameters"]:,} parameters, 6 layers of width 256, 4 heads, MLP 704, tied embeddings,
  bfloat16. Every linear layer has a multiple of 64 inputs.
- Tokenizer: byte-level BPE, {VOCABULARY:,} tokens, trained on the same text; every text begins with `{BOS}`.
- Window: made for up to {LONG} tokens (trained on {SHORT}, the last third on {LONG}); positions go to 1,024.
- Data: titles and abstracts of US patents ({sizes["patents"]:,} tokens, three times), paragraphs of eight OpenStax
  textbooks (CC BY 4.0; {sizes["textbooks"]:,} tokens, twice), English novels 1840-1920 of ELTeC (public domain; the rest).
- Training: {facts["tokens_seen"]:,} tokens in {facts["updates"]:,} updates of {UPDATE:,}; Muon (lr .02) on the matrices of
  the blocks, AdamW (3e-3) on the rest, the rate falling to 0 over the second half; seed {facts["seed"]};
  {facts["seconds"] / 60:.0f} minutes.
- Loss on patents that were held out: {facts["held_out_nats_per_token"]:.3f} nats a token
  ({facts["held_out_tokens"]:,} tokens).

Made by `tools/pretrain.py`; `pretraining.json` holds these figures.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/ and patents/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=26_000_000)
    parser.add_argument("--updates", type=int, default=0, help="stop after this many, for a trial; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    corpus = read_corpus(arguments.data)
    tokenizer = train_tokenizer(corpus)
    encoded = {name: encode(tokenizer, documents) for name, documents in corpus.items()}
    sizes = {name: sum(map(len, documents)) for name, documents in encoded.items()}
    stream = plan(encoded, arguments.tokens, rng)
    updates = (len(stream) - 1) // UPDATE
    print(f"tokens by source {sizes}; {updates} updates of {UPDATE} tokens", flush=True)

    model = build(tokenizer).to(arguments.device)
    blocks = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(blocks, lr=0.02, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    base = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    step_loss = torch.compile(language_loss, dynamic=False) if arguments.compile else language_loss
    began = time.time()
    ran = min(updates, arguments.updates or updates)
    for update in range(ran):
        factor = min(1.0, (update + 1) / 50, 2 * (1 - update / updates))
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
        length = SHORT if update < 2 * updates / 3 else LONG
        loss = step_loss(model, *block(stream, update * UPDATE, length, arguments.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if update % 20 == 0:
            done = (update + 1) * UPDATE
            print(f"{update}/{updates} loss {loss.item():.3f} {done / (time.time() - began):.0f} tokens/s", flush=True)
    seconds = time.time() - began

    nats, held_tokens = held_out(model, tokenizer, arguments.data)
    print(f"held-out patents: {nats:.3f} nats/token on {held_tokens} tokens", flush=True)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    parameters = sum(p.numel() for p in model.parameters())
    facts = {
        "parameters": parameters,
        "tokens_by_source": sizes,
        "tokens_seen": ran * UPDATE,
        "updates": ran,
        "seed": arguments.seed,
        "seconds": round(seconds),
        "held_out_nats_per_token": round(nats, 4),
        "held_out_tokens": held_tokens,
        "torch": torch.__version__,
    }
    (arguments.out / "README.md").write_text(card(facts), encoding="utf-8")
    (arguments.out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
