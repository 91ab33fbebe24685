"""What one writes today to predict: transformers' pipeline, a sorted padded loop, `generate`, sentence-transformers.

Each begins with the texts and ends with numbers in main memory, as ours does. Where an adapter can be merged it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import ATTENTIONS, CPU, classifier, language_model, tokenizer_of
from ours import WORDS, instruction_config
from rounds import Contender, Pass, timed
from rows import Slice
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, pipeline

from lasttoken.methods import instruction
from lasttoken.model.precision import choose_precision
from lasttoken.text.tokenizer import end_token

PAPER_TOKENS = 8  # that the paper's code generates, whatever the label


def under_attentions(name: str, model: Any, rows: np.ndarray, work: Callable[[], Any], **more: Any) -> list[Contender]:
    """`work` under each of transformers' attentions: one family, of which the faster stays."""
    found = []
    for attention in ATTENTIONS:

        def run(attention=attention) -> Pass:
            model.set_attn_implementation(attention)
            with timed() as seconds:
                output = work()
            return Pass(seconds(), output)

        found.append(Contender(f"{name}, {attention}", rows, run, family=name, **more))
    return found


def classification(folder: Path, part: Slice, head: Tensor, batches: Sequence[int], least: int) -> list[Contender]:
    """The pipeline and the sorted loop with the adapter merged, and the paper's way: NF4, LoRA, batches as they come."""
    tokenizer, labels = tokenizer_of(folder), len(part.data.labels)
    merged = classifier(folder, labels, head, quantize="none", lora=False)
    paper = classifier(folder, labels, head, quantize="nf4", lora=True)
    found = []
    for batch in batches:
        rows = part.part(max(batch, least))
        texts = list(part.data.take(rows).texts)
        pipe = pipeline("text-classification", model=merged, tokenizer=tokenizer, device=CPU)

        def piped(pipe=pipe, texts=texts, batch=batch) -> np.ndarray:
            said = pipe(texts, batch_size=batch, top_k=None, truncation=True, max_length=part.limit)
            return by_column(said, labels)

        found += under_attentions(f"pipeline, {WORDS['none']}, merged, batch {batch}", merged, rows, piped)
        if batch > 1:

            def looped(texts=texts, batch=batch) -> np.ndarray:
                return padded_loop(merged, tokenizer, texts, batch=batch, limit=part.limit, grouped=True)

            found += under_attentions(
                f"sorted padded loop, {WORDS['none']}, merged, batch {batch}", merged, rows, looped
            )
    rows = part.part(max(8, least))
    texts = list(part.data.take(np.random.default_rng(0).permutation(rows)).texts)  # unsorted, as a file is

    def papers() -> None:
        padded_loop(paper, tokenizer, texts, batch=8, limit=part.limit, grouped=False)

    return found + under_attentions("padded loop, NF4, LoRA, batch 8", paper, rows, papers, tags=("paper",))


def by_column(said: Sequence[Sequence[dict[str, Any]]], labels: int) -> np.ndarray:
    """What the pipeline says, sorted by score, as probabilities (n, C) in column order."""
    probs = np.empty((len(said), labels))
    for i, row in enumerate(said):
        for one in row:
            probs[i, int(one["label"].removeprefix("LABEL_"))] = one["score"]
    return probs


@torch.inference_mode()
def padded_loop(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    *,
    batch: int,
    limit: int,
    grouped: bool,
) -> np.ndarray:
    """Probabilities (n, C): batches padded to their longest text, sorted by length with `grouped`."""
    ids = tokenizer(texts, truncation=True, max_length=limit, verbose=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i])) if grouped else range(len(ids))
    logits: list[Tensor] = []
    for start in range(0, len(ids), batch):
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in order[start : start + batch]]}, return_tensors="pt")
        logits.append(model(**inputs.to(model.device), use_cache=False).logits.float().cpu())
    probs = np.empty((len(ids), logits[0].shape[1]))
    probs[list(order)] = torch.cat(logits).softmax(dim=1).numpy()
    return probs


def generation(folder: Path, part: Slice, batches: Sequence[int], least: int) -> list[Contender]:
    """`generate` over the prompts that lasttoken scores, one by one and in sorted left-padded batches, adapter merged.

    Weights that were not trained would not stop after the label. So each row is given as many new tokens as its right
    answer and terminator have (a batch, as many as its longest): the least that a model that is always right takes.
    """
    merged = language_model(folder, quantize="none", lora=False)
    paper = language_model(folder, quantize="nf4", lora=True)
    config = instruction_config(folder)
    backbone, prompt = instruction.build(config, part.data.labels, CPU)  # for its tokenizer and limits
    answers = np.array([len(prompt.answers[int(target)]) for target in part.data.targets])

    def contenders(name: str, model: Any, batch: int, tokens: int | None, tags: tuple[str, ...]) -> list[Contender]:
        rows = part.part(max(batch, least))
        texts = part.data.take(rows).texts
        new = answers[rows] if tokens is None else np.full(len(rows), tokens)

        def work() -> None:
            ids = instruction.encode_texts(backbone, prompt, texts, config).ids
            whole = [np.concatenate([prompt.header, text, prompt.footer]).astype(np.int64) for text in ids]
            order = np.argsort([-len(row) for row in whole], kind="stable")
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                generate(model, backbone.tokenizer, [whole[i] for i in chosen], int(new[chosen].max()))

        return under_attentions(name, model, rows, work, tags=tags)

    found = contenders(f"generate, {WORDS['none']}, merged, one by one", merged, 1, None, ("one",))
    found += contenders(
        f"generate, NF4, LoRA, one by one, {PAPER_TOKENS} tokens", paper, 1, PAPER_TOKENS, ("one", "paper")
    )
    for batch in batches:
        found += contenders(f"generate, {WORDS['none']}, merged, batch {batch}", merged, batch, None, ("batched",))
    return found


@torch.inference_mode()
def generate(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[np.ndarray], tokens: int) -> list[str]:
    """`tokens` greedy tokens behind each prompt, as text."""
    pad, width = end_token(tokenizer), max(map(len, prompts))
    ids = torch.tensor(np.stack([np.pad(p, (width - len(p), 0), constant_values=pad) for p in prompts]))
    mask = torch.tensor(np.stack([np.arange(width) >= width - len(p) for p in prompts]).astype(np.int64))
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=pad, eos_token_id=None)
    ids, mask = ids.to(model.device), mask.to(model.device)
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


def sentence_transformers(folder: Path, part: Slice, batches: Sequence[int], least: int) -> list[Contender]:
    """`encode` of a SentenceTransformer made of the same causal LM and mean pooling; it sorts by length itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    body = Transformer(str(folder), model_kwargs={"dtype": choose_precision(CPU).dtype}, max_seq_length=part.limit)
    pooling = Pooling(body.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[body, pooling], device="cpu")
    found = []
    for batch in batches:
        rows = part.part(max(batch, least))
        texts = list(part.data.take(rows).texts)

        def work(texts=texts, batch=batch) -> np.ndarray:
            return model.encode(texts, batch_size=batch, show_progress_bar=False)

        name = f"sentence-transformers, {WORDS['none']}, batch {batch}"
        found += under_attentions(name, body.auto_model, rows, work)
    return found
