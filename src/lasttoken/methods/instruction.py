"""Approach 2: the same LM, prompted; the answer is the label's text, and every label is scored exactly.

Reads top to bottom, as methods/embedding.py does; where the two differ is the paper's comparison
(Yousefiramandi & Cooney 2025, arXiv:2512.12677). The loss is on the answer and its terminator only, and the
vocabulary head runs only where an answer token is predicted.

One label a row: the score of a label is log p(its tokens and the terminator | prompt); softmax over labels.
Several: the model learns two things, the joined answer ("A, C", in label-space order; what `generate` reads) and,
label by label, "does it apply? yes / no" (what probabilities come from).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from lasttoken.config import Instruction
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, ModelError
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods.artifact import read_settings, write_settings
from lasttoken.methods.bounded import bounded_probs, walk_of
from lasttoken.methods.fitting import fit_weights, no_training
from lasttoken.methods.generation import generated_probs
from lasttoken.methods.packed import in_batches
from lasttoken.methods.pretrained import describe_base, on_base
from lasttoken.methods.scoring import Scored, lay_out_trees, score
from lasttoken.model.adapter import adapt, load_adapter, save_adapter
from lasttoken.model.backbone import Backbone, quantisation
from lasttoken.model.backbone import load as load_backbone
from lasttoken.model.device import choose_device
from lasttoken.model.lora import Merge, merged
from lasttoken.model.lora import merge as merge_adapter
from lasttoken.model.recall import remember
from lasttoken.seed import derive, generator
from lasttoken.text.prompt import Prompt, make_prompt
from lasttoken.text.tokenizer import Encoded, encode
from lasttoken.text.tree import MOST, Tree, alike, grow, in_groups
from lasttoken.text.tree import Path as TreePath
from lasttoken.train.world import ALONE, World, join

WITHOUT_CONTENT = ("N/A", "[MASK]", "")  # the three of Zhao 2021
TINIEST = 1e-12
MANY = 4  # times the tokens of a text that answers may take before a faster way is named


@dataclass(frozen=True, eq=False)
class InstructionModel:
    """A backbone with its vocabulary head, its adapter and its prompt: texts -> probabilities."""

    config: Instruction
    labels: LabelSpace
    backbone: Backbone
    adapter: PeftModel | None
    prompt: Prompt
    prior: np.ndarray | None = None  # (C,) what texts without content are said to be; None: not taken out

    def predict_proba(self, texts: Sequence[str], journal: Journal | None = None) -> np.ndarray:
        """Probabilities (N, C) float64, row order kept. With decode = "generate" they are 0 and 1; see `answer`."""
        if self.config.decode == "generate":
            probs, wrong = self.answer(texts, journal)
            if journal is not None:
                journal.invalid = (journal.invalid or 0) + int(wrong.sum())
            return probs
        encoded = encode_texts(self.backbone, self.prompt, texts, self.config, journal)
        budget, tolerance = self.config.train.budget, self.config.tolerance
        probs = label_probs(self.backbone, self.prompt, encoded, self.labels, budget=budget, tolerance=tolerance)
        return probs if self.prior is None else without_prior(probs, self.prior, multi=self.labels.multi)

    def answer(self, texts: Sequence[str], journal: Journal | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Greedy answers, parsed as in the paper: (0 / 1 probabilities (N, C), invalid (N,) bool: no label was named)."""
        encoded = encode_texts(self.backbone, self.prompt, texts, self.config, journal)
        return generated_probs(self.backbone, self.prompt, encoded, self.labels)

    def save(self, folder: Path) -> None:
        """method.json, and adapter/ in PEFT's format."""
        c = self.config
        base = describe_base(c.model, c.revision, c.trust_remote_code)
        # the prompt itself, because a chat template may hold today's date
        prior = None if self.prior is None else self.prior.tolist()
        write_settings(folder, c, self.labels, base=base, prompt=self.prompt.to_dict(), prior=prior)
        if self.adapter is not None:
            save_adapter(self.adapter, folder / "adapter")


def fit(
    config: Instruction, train: Dataset, valid: Dataset, *, seed: int, device: str, journal: Journal
) -> InstructionModel:
    """The model trained on `train`, with the weights that were best on `valid`; zero-shot with train_model = false."""
    place = choose_device(device)
    world = join(place)
    backbone, prompt = build(config, train.labels, place)
    if config.quantize == "nf4":
        journal.note(quantisation(backbone))
    around = [str(backbone.tokenizer.decode(ids)) for ids in (prompt.header.tolist(), prompt.footer)]
    journal.note(f"prompt {'...'.join(around)!r}")
    if not prompt.listed:
        journal.note(
            f"the prompt does not list its {len(train.labels)} labels, which would fill half of max_length or more"
        )
    if config.tolerance and train.labels.multi:
        raise ConfigError(
            ["tolerance: with several labels a row each is asked by itself and scored exactly; leave it at 0"]
        )
    if advice := many_labels(config, backbone, prompt, train):
        journal.note(advice)
    if not config.train_model:
        no_training([backbone.whole], journal)
        return with_prior(InstructionModel(config, train.labels, backbone, None, prompt))
    if not config.lora.r:
        raise ConfigError(["lora.r: 0 leaves nothing to train; set a rank, or train_model = false for zero-shot"])
    adapter = adapt(backbone, **config.lora.model_dump(), seed=derive(seed, "adapter"))
    rows = encode_texts(backbone, prompt, train.texts, config)
    asked = encode_texts(backbone, prompt, valid.texts, config)
    if cut := rows.truncation():
        journal.note(f"train: {cut}")
    pick = generator(seed, "labels asked about")

    def loss_and_count(chosen: np.ndarray) -> tuple[Tensor, float]:
        taught = [lesson(prompt, backbone, train, int(i), config.questions, pick) for i in chosen]
        batch = lay_out_trees(backbone, prompt.header, [rows.ids[i] for i in chosen], [tree for tree, _ in taught])
        with backbone.autocast():
            scores = score(backbone, batch)
        weights = torch.from_numpy(np.concatenate([weight for _, weight in taught])).float().to(place)
        tokens = torch.from_numpy(np.concatenate([np.bincount(t.path, minlength=t.paths) for t, _ in taught])).to(place)
        return -(torch.cat(scores) * weights).sum(), float((tokens * weights).sum())

    def predict() -> np.ndarray:
        with merged(backbone.whole, config.merge):
            budget, tolerance = config.train.budget, config.tolerance
            return label_probs(backbone, prompt, asked, train.labels, budget=budget, tolerance=tolerance, world=world)

    fit_weights(
        [backbone.whole],
        loss_and_count,
        rows.lengths + answer_tokens(prompt, train, questions=config.questions),
        valid,
        predict,
        settings=config.train,
        width=backbone.width,
        seed=seed,
        world=world,
        journal=journal,
    )
    merge_adapter(backbone.whole, config.merge)
    return with_prior(InstructionModel(config, train.labels, backbone, adapter, prompt))


def load(folder: Path, *, device: str, model: str | None = None, merge: Merge | None = None) -> InstructionModel:
    """The model that `save` wrote, its base model in the folder `model` and merged as `merge` says where they are given."""
    config, labels, rest = read_settings(folder)
    config = on_base(config, folder, rest, model=model, merge=merge)
    backbone, _ = build(config, labels, choose_device(device))
    adapter = load_adapter(backbone, folder / "adapter") if config.train_model else None
    merge_adapter(backbone.whole, config.merge)
    prior = None if rest.get("prior") is None else np.array(rest["prior"])
    return InstructionModel(config, labels, backbone, adapter, Prompt.of(rest["prompt"]), prior)


def build(config: Instruction, labels: LabelSpace, device: torch.device) -> tuple[Backbone, Prompt]:
    """The frozen backbone with its vocabulary head, and the prompt for its tokenizer."""
    backbone = load_backbone(
        config.model,
        kind="decoder",
        device=device,
        quantize=config.quantize,
        vocabulary=True,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
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


def encode_texts(
    backbone: Backbone, prompt: Prompt, texts: Sequence[str], config: Instruction, journal: Journal | None = None
) -> Encoded:
    """Token ids of the texts alone, cut so that header, text, footer and the longest answer fit the limit."""
    limit = room_for_text(backbone, prompt, config)
    return encode(backbone.tokenizer, texts, limit=limit, special=False, keep=config.long.keep, journal=journal)


def room_for_text(backbone: Backbone, prompt: Prompt, config: Instruction) -> int:
    """Tokens that header, footer and the longest answer leave of the limit. Raises ModelError where they leave none."""
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
    """The sentence for labels whose scoring costs several times what the texts do; None where it does not, or is bounded."""
    if train.labels.multi or config.tolerance or config.decode == "generate":
        return None
    some = encode_texts(backbone, prompt, train.texts[:100], config)
    text, trees = some.lengths.mean(), answer_trees(prompt, train.labels)
    answers = sum(len(tree.tokens) for _, tree in trees) + text * (len(trees) - 1)
    if answers < MANY * text:
        return None
    return (
        f"scoring {len(train.labels)} labels to their end takes {answers:,.0f} tokens a row beside {text:.0f} of its text; "
        "method.tolerance = 0.001 follows only what can change a probability by that much"
    )


def longest_paths(prompt: Prompt, backbone: Backbone) -> list[TreePath]:
    """The paths that may follow a text and be its longest: (footer, answer)."""
    columns = range(len(prompt.answers))
    if not prompt.questions:
        return [prompt.answer_path(j) for j in columns]
    whole = [prompt.set_path(list(columns), backbone.tokenizer), prompt.set_path([], backbone.tokenizer)]
    return whole + [prompt.question_path(j, applies) for j in columns for applies in (True, False)]


def lesson(
    prompt: Prompt, backbone: Backbone, train: Dataset, row: int, questions: int, rng: np.random.Generator
) -> tuple[Tree, np.ndarray]:
    """What one row teaches: a tree of right answers, and the weight (paths,) of each.

    With more labels than `questions`, those that apply are all asked and others are drawn; a drawn one stands for
    all that were not, so that the expected loss is that of asking every label.
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
    stands_for = len(false) / max(1, len(drawn))
    return grow(paths), np.r_[1.0, np.ones(len(true)), np.full(len(drawn), stands_for)]


def answer_tokens(prompt: Prompt, train: Dataset, *, questions: int) -> np.ndarray:
    """Tokens of the answers that stand behind each row in training, (N,) int64; with several labels about so many.

    Of several labels, names that begin alike are counted twice, and those that are drawn with the mean of all.
    """
    if not train.labels.multi:
        return np.array([len(prompt.footer) + len(answer) - 1 for answer in prompt.answers])[train.targets]
    opening = alike(prompt.questions)
    asked = np.array([len(question) - opening + len(prompt.yes) - 1 for question in prompt.questions])
    named = np.array([len(answer) for answer in prompt.answers])
    true = train.targets.astype(np.int64)  # (N, C)
    applying = true.sum(axis=1)
    others = len(asked) - applying
    drawn = others if len(asked) <= questions else np.minimum(others, np.maximum(1, questions - applying))
    together = len(prompt.footer) + opening - alike([prompt.footer, *prompt.questions])
    joined = np.where(applying > 0, true @ named, len(prompt.none)) - 1
    return together + joined + true @ asked + np.rint(drawn * asked.mean()).astype(np.int64)


def answer_paths(prompt: Prompt, labels: LabelSpace) -> list[TreePath]:
    """The paths that every row is scored on: all labels, or for every label yes (path 2j) and no (path 2j + 1)."""
    if not labels.multi:
        return [prompt.answer_path(j) for j in range(len(labels))]
    return [prompt.question_path(j, applies) for j in range(len(labels)) for applies in (True, False)]


def answer_trees(prompt: Prompt, labels: LabelSpace) -> list[tuple[np.ndarray, Tree]]:
    """The trees that every row is scored with: the numbers of their paths (n,), and the tree.

    One for all labels as long as it has MOST nodes or fewer; with more, the text is read again for every further one.
    """
    paths = answer_paths(prompt, labels)
    return [(group, grow([paths[i] for i in group])) for group in in_groups(paths, MOST)]


def label_probs(
    backbone: Backbone,
    prompt: Prompt,
    encoded: Encoded,
    labels: LabelSpace,
    *,
    budget: int,
    tolerance: float = 0.0,
    world: World = ALONE,
) -> np.ndarray:
    """Probabilities (N, C) float64 in the order of `encoded`, the same in every process: exact, or within `tolerance`."""
    if tolerance and not labels.multi:
        return tolerated_probs(backbone, prompt, encoded, budget=budget, tolerance=tolerance, world=world)
    trees, count = answer_trees(prompt, labels), len(encoded)
    lengths = np.concatenate([encoded.lengths + len(tree.tokens) for _, tree in trees])
    several = lengths.sum() > budget  # batches; of one alone, the header is best run in its row
    header = remember(backbone, prompt.header) if several else prompt.header
    scores = torch.zeros(count, sum(tree.paths for _, tree in trees), dtype=torch.float64)

    def compute(jobs: np.ndarray) -> list[Tensor]:  # job k: row k % count behind tree k // count
        texts, asked = [encoded.ids[k % count] for k in jobs], [trees[k // count][1] for k in jobs]
        batch: Scored = lay_out_trees(backbone, header, texts, asked)
        with backbone.autocast():
            return list(torch.cat(score(backbone, batch)).cpu().double().split(batch.paths))

    for jobs, found in in_batches(lengths, compute, budget=budget, device=backbone.device, world=world):
        for k, one in zip(jobs, found, strict=True):
            scores[k % count, trees[k // count][0]] = one
    world.add([scores])
    if not labels.multi:
        return scores.softmax(dim=1).numpy()
    return (scores[:, 0::2] - scores[:, 1::2]).sigmoid().numpy()


def tolerated_probs(
    backbone: Backbone, prompt: Prompt, encoded: Encoded, *, budget: int, tolerance: float, world: World
) -> np.ndarray:
    """Probabilities (N, C) float64 of one label a row, each within `tolerance` of the exact one (methods/bounded.py)."""
    walk = walk_of(grow([((), answer) for answer in prompt.answers]))
    header, footer = remember(backbone, prompt.header), np.array(prompt.footer, dtype=np.int64)
    probs = torch.zeros(len(encoded), len(prompt.answers), dtype=torch.float64)

    def compute(rows: np.ndarray) -> np.ndarray:
        texts = [np.concatenate([encoded.ids[i], footer]) for i in rows]
        return bounded_probs(backbone, walk, header, texts, tolerance=tolerance, budget=budget)

    lengths = encoded.lengths + len(footer)
    for rows, found in in_batches(lengths, compute, budget=budget, device=backbone.device, world=world):
        probs[torch.from_numpy(rows)] = torch.from_numpy(found)
    world.add([probs])
    return probs.numpy()


def with_prior(model: InstructionModel) -> InstructionModel:
    """The model with what it says of texts without content, where its config asks for that to be taken out."""
    if not model.config.contextual:
        return model
    return replace(model, prior=model.predict_proba(WITHOUT_CONTENT).mean(axis=0))


def without_prior(probs: np.ndarray, prior: np.ndarray, *, multi: bool) -> np.ndarray:
    """Probabilities (N, C) under which a text without content would favour no label: contextual calibration.

    p / prior, brought back to a sum of one (Zhao 2021, arXiv:2102.09690); with several labels the same of yes and no.
    """
    held = np.clip(prior, TINIEST, 1 - TINIEST)
    yes = probs / held
    return yes / (yes + (1 - probs) / (1 - held)) if multi else yes / yes.sum(axis=1, keepdims=True)


def prior_logits(prior: np.ndarray, multi: bool) -> np.ndarray:
    """What `without_prior` takes off the logits of a softmax, or with `multi` of a sigmoid, (C,) float64."""
    held = np.clip(prior, TINIEST, 1 - TINIEST)
    return np.log(held) - (np.log1p(-held) if multi else 0.0)
