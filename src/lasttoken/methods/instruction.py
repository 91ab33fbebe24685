"""Approach 2: the same LM, prompted; the answer is the label's text, and every label is scored exactly.

Reads top to bottom, as methods/embedding.py does; where the two differ is the paper's comparison
(Yousefiramandi & Cooney 2025, arXiv:2512.12677). The loss is on the answer and its terminator only, and the
vocabulary head runs only where an answer token is predicted.

One label a row: the score of a label is log p(its tokens and the terminator | prompt); softmax over labels.
Several: the model learns two things, the joined answer ("A, C", in label-space order; what `generate` reads) and,
label by label, "does it apply? yes / no" (what probabilities come from).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from lasttoken.config.methods import Instruction
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ArtifactError, ConfigError, ModelError
from lasttoken.fitting.fit import Learner, Trained, cost_of, fit_weights
from lasttoken.infer.differentiable import Differentiable, embedding_of, flat, spans
from lasttoken.infer.generation import generated_probs
from lasttoken.infer.label_probs import answer_trees, label_probs
from lasttoken.infer.portable import PortableLM
from lasttoken.infer.scoring import lay_out_trees, score
from lasttoken.journal import Journal, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Fitted, Said
from lasttoken.model.adapter import adapt, load_adapter, save_adapter
from lasttoken.model.backbone import Backbone
from lasttoken.model.base_model import describe_base, in_precision, on_base, tell_if_slower
from lasttoken.model.device import choose_device, put
from lasttoken.model.load import Source, quantisation
from lasttoken.model.load import load as load_backbone
from lasttoken.model.lora import Merge, merged
from lasttoken.model.lora import merge as merge_adapter
from lasttoken.model.plain import plain_model
from lasttoken.model.shared import Shared
from lasttoken.record.artifact import read_settings, write_settings
from lasttoken.record.folder import read_json
from lasttoken.seed import derive, generator
from lasttoken.text.answer_tree import Path as TreePath
from lasttoken.text.answer_tree import Tree, common_prefix_length, grow
from lasttoken.text.batch import MicroBatch
from lasttoken.text.prompt import Prompt, make_prompt
from lasttoken.text.tokenizer import Encoded, encode
from lasttoken.train.distributed import UNSHARED, join, launched
from lasttoken.train.state import TrainState

WITHOUT_CONTENT = ("N/A", "[MASK]", "")  # the three of Zhao 2021
TINIEST = 1e-12
PROMPT = "prompt.json"  # in an exported folder
MANY = 4  # answers longer than this many times the text: recommend method.tolerance


@dataclass(frozen=True, eq=False)
class InstructionModel:
    """A backbone with its vocabulary head, its adapter and its prompt: texts -> probabilities."""

    config: Instruction
    labels: LabelSpace
    backbone: Backbone
    adapter: PeftModel | None
    prompt: Prompt
    prior: np.ndarray | None = None  # (C,) mean probabilities of content-free texts; None: no contextual calibration

    def predict_proba(self, texts: Sequence[str], progress: Progress = unheard) -> Said:
        """Probabilities (N, C) float64, row order kept.

        With decode = "generate" they are 0 and 1: greedy answers, parsed as in the paper.
        """
        return self.predict_encoded(self.encode(texts), progress)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of the texts in their prompts, as the model reads them."""
        return encode_texts(self.backbone, self.prompt, texts, self.config)

    def predict_encoded(self, encoded: Encoded, progress: Progress = unheard) -> Said:
        """`predict_proba` of encoded texts."""
        budget = self.config.train.budget
        if self.config.decode == "generate":
            probs, invalid = generated_probs(
                self.backbone, self.prompt, encoded, self.labels, budget=budget, progress=progress
            )
            return Said.of(probs, encoded, invalid)
        tolerance = self.config.tolerance
        probs = label_probs(
            self.backbone, self.prompt, encoded, self.labels, budget=budget, tolerance=tolerance, progress=progress
        )
        return Said.of(
            probs if self.prior is None else without_prior(probs, self.prior, multi=self.labels.multi), encoded
        )

    @property
    def on_accelerator(self) -> bool:
        """Whether the model runs beside the CPU."""
        return self.backbone.device.type != "cpu"

    @property
    def has_gradients(self) -> bool:
        """Whether the tokenizer gives the character offsets of its tokens."""
        return bool(self.backbone.tokenizer.is_fast)

    def differentiable(self, text: str) -> Differentiable:
        """Log-probability of each label (multi-label: log-odds of yes against no) as a function of the text's embeddings."""
        backbone, trees = self.backbone, answer_trees(self.prompt, self.labels)
        encoded = encode_texts(backbone, self.prompt, [text], self.config)
        ids, header = encoded.ids[0], len(self.prompt.header)
        order = np.argsort(np.concatenate([numbers for numbers, _ in trees]))
        prior = None if self.prior is None else torch.from_numpy(prior_logits(self.prior, self.labels.multi))

        def paths(embeddings: Tensor, tree: Tree) -> Tensor:
            count = len(embeddings)
            batch = lay_out_trees(backbone, self.prompt.header, [ids] * count, [tree] * count)
            starts = header + torch.arange(count, device=backbone.device) * (len(ids) + len(tree.tokens))
            places = (starts[:, None] + torch.arange(len(ids), device=backbone.device)).reshape(-1)
            packed = embedding_of(backbone)(batch.tokens).index_copy(0, places, flat(embeddings, backbone))
            with backbone.autocast():
                return torch.stack(score(backbone, batch, packed))  # (B, paths of the tree)

        def forward(embeddings: Tensor) -> Tensor:
            scores = torch.cat([paths(embeddings, tree) for _, tree in trees], dim=1)[:, order]  # (B, paths)
            odds = scores[:, 0::2] - scores[:, 1::2] if self.labels.multi else scores
            return odds if prior is None else odds - prior.to(odds)

        characters = spans(backbone, text, encoded, keep=self.config.long.keep, special=False)
        behind = sum(len(tree.tokens) for _, tree in trees)
        return Differentiable(backbone, ids, characters, forward, behind + len(trees) * len(ids))

    def portable(self) -> PortableLM:
        """The merged causal LM and the prompt. Raises ConfigError on answers that are generated, or less a prior."""
        if self.config.decode == "generate" or self.prior is not None:
            what = "contextual = true" if self.prior is not None else "decode = generate"
            raise ConfigError([f"{what}: an exported model scores its labels; train without it to export"])
        limit = min(self.config.max_length, self.backbone.window)
        model = plain_model(self.backbone.whole, dtype=self.backbone.compute)
        return PortableLM(model, self.backbone.tokenizer, self.prompt, limit, self.backbone.precision)

    def save(self, folder: Path) -> None:
        """method.json, and the adapter in adapter/."""
        c = self.config.model_copy(update={"precision": self.backbone.precision})
        base = describe_base(c.model, c.revision, c.trust_remote_code)
        # the prompt itself, because a chat template may hold today's date
        prior = None if self.prior is None else self.prior.tolist()
        write_settings(folder, c, self.labels, base=base, prompt=self.prompt.to_dict(), prior=prior)
        if self.adapter is not None:
            save_adapter(self.adapter, folder / "adapter")


def fit(
    config: Instruction,
    train: Dataset,
    valid: Dataset,
    *,
    seed: int,
    device: str,
    journal: Journal,
    state: TrainState | None = None,
) -> Fitted:
    """The model trained on `train`, with the weights that were best on `valid`; zero-shot with train_model = false."""
    backbone, prompt = build(config, train.labels, choose_device(device))
    if backbone.sharded:  # nor merged when it is read again, so that it predicts the same
        config = config.model_copy(update={"merge": "off"})
    for sentence in advice(config, backbone, prompt, train):
        journal.note(sentence)
    if not config.train_model:
        journal.note("nothing was trained (zero-shot)")
        model = with_prior(InstructionModel(config, train.labels, backbone, None, prompt))
        return Fitted(model, cost_of([backbone.whole]))
    if not config.lora.r:
        raise ConfigError(["lora.r: 0 leaves nothing to train; set a rank, or train_model = false for zero-shot"])
    adapter = adapt(backbone, **config.lora.model_dump(), seed=derive(seed, "adapter"))
    trained = fit_answers(backbone, prompt, (train, valid), config, seed=seed, journal=journal, state=state)
    merge_adapter(backbone.whole, config.merge)
    model = with_prior(InstructionModel(config, train.labels, backbone, adapter, prompt))
    return Fitted(model, trained.cost, trained.steps, trained.end, split=backbone.sharded)


def fit_answers(
    backbone: Backbone,
    prompt: Prompt,
    data: tuple[Dataset, Dataset],
    config: Instruction,
    *,
    seed: int,
    journal: Journal,
    state: TrainState | None,
) -> Trained:
    """Train the adapter, in place, on the correct answers of the training texts."""
    (train, valid), world = data, join(backbone.device)
    journal.progress("reading the texts", 0, 0)
    train_rows, valid_rows = (encode_texts(backbone, prompt, part.texts, config) for part in data)
    if cut := train_rows.truncation():
        journal.note(f"train: {cut}")

    def loss_and_count(micro: MicroBatch) -> tuple[Tensor, float]:
        chosen, picks = micro.rows.tolist(), f"labels asked about in update {micro.update}, row"
        trees = [
            training_tree(prompt, backbone, train, i, config.questions, generator(seed, f"{picks} {i}")) for i in chosen
        ]
        batch = lay_out_trees(backbone, prompt.header, [train_rows.ids[i] for i in chosen], [tree for tree, _ in trees])
        with backbone.autocast():
            scores = score(backbone, batch)
        weights = np.concatenate([weight for _, weight in trees]).astype(np.float32)  # (paths,)
        tokens = np.concatenate([np.bincount(tree.path, minlength=tree.paths) for tree, _ in trees])
        return -(torch.cat(scores) * put(weights, backbone.device)).sum(), float(tokens @ weights)

    def predict() -> np.ndarray:
        with merged(backbone.whole, config.merge):
            budget, tolerance = config.train.budget, config.tolerance
            return label_probs(
                backbone,
                prompt,
                valid_rows,
                train.labels,
                budget=budget,
                tolerance=tolerance,
                world=world,
                progress=journal.task("validating"),
            )

    lengths = train_rows.lengths + answer_tokens(prompt, train, questions=config.questions)
    return fit_weights(
        Learner([backbone.whole], loss_and_count, lengths, valid, predict, backbone.width, sharded=backbone.sharded),
        config.train,
        seed=seed,
        world=world,
        journal=journal,
        state=state,
    )


def advice(config: Instruction, backbone: Backbone, prompt: Prompt, train: Dataset) -> list[str]:
    """Notes for the user before training. Raises ConfigError on a tolerance with several labels per row."""
    said = [*backbone.notes, *([UNSHARED] if config.train.shard and not launched() else [])]
    if config.quantize == "nf4":
        said.append(quantisation(backbone))
    around = [str(backbone.tokenizer.decode(ids)) for ids in (prompt.header.tolist(), prompt.footer)]
    said.append(f"prompt {'...'.join(around)!r}")
    if not prompt.listed:
        count = len(train.labels)
        said.append(f"the prompt does not list its {count} labels, which would fill half of max_length or more")
    if backbone.padded:
        branches = sum(tree.branches for _, tree in answer_trees(prompt, train.labels))
        unused = "; method.tolerance has no effect" if config.tolerance else ""
        said.append(f"in padded rows a text runs again for each of {branches} answers when it is scored{unused}")
    if config.tolerance and train.labels.multi:
        raise ConfigError(["tolerance: with several labels per row every label is scored exactly; leave it at 0"])
    expensive = many_labels(config, backbone, prompt, train)
    return said if expensive is None else [*said, expensive]


def load(
    folder: Path,
    *,
    device: str,
    model: str | None = None,
    merge: Merge | None = None,
    precision: str | None = None,
    shared: Shared | None = None,
) -> InstructionModel:
    """The model that `save` wrote. model: another folder of its base model. merge, precision: override what is stored.

    shared: where models are that other runs have loaded.
    """
    config, labels, rest = read_settings(folder)
    place = choose_device(device)
    config = in_precision(on_base(config, folder, rest, model=model, merge=merge), precision, place)
    backbone, _ = build(config, labels, place, load_backbone if shared is None else shared.load)
    adapter = load_adapter(backbone, folder / "adapter") if config.train_model else None
    tell_if_slower(backbone, precision)
    merge_adapter(backbone.whole, config.merge)
    prior = None if rest.get("prior") is None else np.array(rest["prior"])
    return InstructionModel(
        config, labels, backbone, adapter, stored_prompt(folder, rest.get("prompt"), backbone), prior
    )


def stored_prompt(folder: Path, stored: Any, backbone: Backbone) -> Prompt:
    """The prompt that `save` stored. Raises ArtifactError on anything else, such as tokens that the model does not have."""
    try:
        prompt = Prompt.of(stored)
        parts = [prompt.header, prompt.footer, *prompt.answers, *prompt.questions, prompt.yes, prompt.no, prompt.none]
        ids = np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
        if ids.min() < 0 or ids.max() >= backbone.config.vocab_size:
            raise ValueError("tokens that the model does not have")
        return prompt
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ArtifactError(f"{folder}: its prompt is damaged ({error}); fit again") from error


def of_export(folder: Path) -> InstructionModel:
    """The model in an exported folder, whose weights hold the adapter, on the CPU."""
    config, labels, _ = read_settings(folder)
    merged_into = {"model": str(folder), "revision": None, "quantize": "none", "train_model": False}
    config = config.model_copy(update=merged_into | {"trust_remote_code": False})
    backbone, _ = build(config, labels, torch.device("cpu"))
    return InstructionModel(config, labels, backbone, None, stored_prompt(folder, read_json(folder / PROMPT), backbone))


def build(
    config: Instruction, labels: LabelSpace, device: torch.device, loads: Callable[..., Backbone] = load_backbone
) -> tuple[Backbone, Prompt]:
    """The frozen backbone with its vocabulary head, and the prompt for its tokenizer."""
    backbone = loads(
        Source(config.model, config.revision, config.trust_remote_code),
        kind="decoder",
        device=device,
        precision=config.precision,
        quantize=config.quantize,
        vocabulary=True,
        processes=join(device).size if config.train.shard else 1,
    )
    prompt = make_prompt(
        backbone.tokenizer,
        labels,
        template=config.prompt,
        chat=config.chat == "auto",
        verbalizer=config.verbalizer,
        separator=config.label_separator,
        room=min(config.max_length, backbone.window) // 2,
    )
    return backbone, prompt


def encode_texts(backbone: Backbone, prompt: Prompt, texts: Sequence[str], config: Instruction) -> Encoded:
    """Token ids of the texts alone, truncated so that header, text, footer and the longest answer fit the limit."""
    limit = room_for_text(backbone, prompt, config)
    return encode(backbone.tokenizer, texts, limit=limit, special=False, keep=config.long.keep)


def room_for_text(backbone: Backbone, prompt: Prompt, config: Instruction) -> int:
    """Tokens of the limit left for the text after header, footer and the longest answer. Raises ModelError if none."""
    around = len(prompt.header) + max(len(context) + len(answer) for context, answer in longest_paths(prompt, backbone))
    whole = min(config.max_length, backbone.window)
    if whole > around:
        return whole - around
    more = "raise max_length, " if config.max_length < backbone.window else ""
    raise ModelError(
        f"instruction: prompt and labels take {around} of {whole} tokens and leave none for the text; {more}shorten the "
        "prompt or the answers, or use --method embedding"
    )


def many_labels(config: Instruction, backbone: Backbone, prompt: Prompt, train: Dataset) -> str | None:
    """A note that scoring the labels costs over MANY times as much as the texts; None where it does not."""
    if train.labels.multi or config.tolerance or config.decode == "generate" or backbone.padded:
        return None
    some = encode_texts(backbone, prompt, train.texts[:100], config)
    text, trees = some.lengths.mean(), answer_trees(prompt, train.labels)
    answers = sum(len(tree.tokens) for _, tree in trees) + text * (len(trees) - 1)
    if answers < MANY * text:
        return None
    return (
        f"scoring all {len(train.labels)} labels takes {answers:,.0f} tokens per row, its text {text:.0f}; "
        "method.tolerance = 0.001 skips labels that change no probability by more than that"
    )


def longest_paths(prompt: Prompt, backbone: Backbone) -> list[TreePath]:
    """Candidates for the longest path after a text: (footer, answer)."""
    columns = range(len(prompt.answers))
    if not prompt.questions:
        return [prompt.answer_path(j) for j in columns]
    whole = [prompt.set_path(list(columns), backbone.tokenizer), prompt.set_path([], backbone.tokenizer)]
    return whole + [prompt.question_path(j, applies) for j in columns for applies in (True, False)]


def training_tree(
    prompt: Prompt, backbone: Backbone, train: Dataset, row: int, questions: int, rng: np.random.Generator
) -> tuple[Tree, np.ndarray]:
    """Training targets of one row: a tree of its correct answers, and the weight (paths,) of each.

    With more labels than `questions`, all true labels are kept and false ones are sampled. Sampled labels are weighted
    up, so that the expected loss equals that over every label.
    """
    if not train.labels.multi:
        return grow([prompt.answer_path(int(train.targets[row]))]), np.ones(1)
    true = np.flatnonzero(train.targets[row])
    false = np.flatnonzero(~train.targets[row])
    drawn = (
        false
        if len(false) + len(true) <= questions
        else rng.choice(false, min(len(false), max(1, questions - len(true))), replace=False)
    )
    paths = [prompt.set_path(true.tolist(), backbone.tokenizer)]
    paths += [prompt.question_path(int(j), True) for j in true]
    paths += [prompt.question_path(int(j), False) for j in drawn]
    false_weight = len(false) / max(1, len(drawn))
    return grow(paths), np.r_[1.0, np.ones(len(true)), np.full(len(drawn), false_weight)]


def answer_tokens(prompt: Prompt, train: Dataset, *, questions: int) -> np.ndarray:
    """Answer tokens after each training row, (N,) int64; an estimate with several labels per row.

    The estimate counts shared prefixes of label names twice, and gives sampled labels the mean length.
    """
    if not train.labels.multi:
        return np.array([len(prompt.footer) + len(answer) - 1 for answer in prompt.answers])[train.targets]
    opening = common_prefix_length(prompt.questions)
    question_tokens = np.array([len(question) - opening + len(prompt.yes) - 1 for question in prompt.questions])
    name_tokens = np.array([len(answer) for answer in prompt.answers])
    true = train.targets.astype(np.int64)  # (N, C)
    applying = true.sum(axis=1)
    others = len(question_tokens) - applying
    drawn = others if len(question_tokens) <= questions else np.minimum(others, np.maximum(1, questions - applying))
    shared = len(prompt.footer) + opening - common_prefix_length([prompt.footer, *prompt.questions])
    joined = np.where(applying > 0, true @ name_tokens, len(prompt.none)) - 1
    return shared + joined + true @ question_tokens + np.rint(drawn * question_tokens.mean()).astype(np.int64)


def with_prior(model: InstructionModel) -> InstructionModel:
    """The model with its prior from content-free texts, where config.contextual is set."""
    if not model.config.contextual:
        return model
    return replace(model, prior=model.predict_proba(WITHOUT_CONTENT).probs.mean(axis=0))


def without_prior(probs: np.ndarray, prior: np.ndarray, *, multi: bool) -> np.ndarray:
    """Contextual calibration: probabilities (N, C) under which a content-free text favours no label.

    p / prior, normalised (Zhao 2021, arXiv:2102.09690); with several labels, over yes and no of each.
    """
    held = np.clip(prior, TINIEST, 1 - TINIEST)
    yes = probs / held
    return yes / (yes + (1 - probs) / (1 - held)) if multi else yes / yes.sum(axis=1, keepdims=True)


def prior_logits(prior: np.ndarray, multi: bool) -> np.ndarray:
    """`without_prior` as an offset subtracted from the softmax logits (multi: sigmoid logits), (C,) float64."""
    held = np.clip(prior, TINIEST, 1 - TINIEST)
    return np.log(held) - (np.log1p(-held) if multi else 0.0)
