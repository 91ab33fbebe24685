"""Which rows would travel together, and the micro-batch among them that needs the most memory.

Training shuffles by its seed, so its micro-batches are known before it begins: they are drawn here as it draws them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lasttoken.config import Embedding, Encoder, Instruction, Probe, Training
from lasttoken.methods.instruction import answer_tokens, answer_trees, lesson, room_for_text
from lasttoken.model.backbone import Backbone
from lasttoken.plan.rehearsal import Micro
from lasttoken.plan.rows import Rows
from lasttoken.seed import generator
from lasttoken.text.batch import Budget, by_length, epochs
from lasttoken.text.prompt import Prompt, make_prompt
from lasttoken.text.tree import Tree, grow

UPDATES = 20_000  # looked at for the fullest; later ones are no fuller by more than chance


@dataclass(frozen=True)
class Work:
    """A pass over some rows."""

    fullest: Micro
    count: float  # micro-batches
    tokens: float  # of all of them together
    several: bool = False  # an update has more than one


@dataclass(frozen=True, eq=False)
class Texts:
    """The rows as a method packs them."""

    rows: Rows
    limit: int  # tokens that a text may keep
    header: int = 0  # tokens that a micro-batch shares
    answers: np.ndarray | int = 0  # tokens behind each training row (N,), or behind any of them
    taught: Callable[[int], Tree] | None = None  # what stands behind a training row
    asked: tuple[Tree, ...] = ()  # what a row to predict is scored with, each in its turn behind the text

    def lengths(self, part: str) -> np.ndarray:
        """Tokens of the texts of a part, (N,)."""
        return np.minimum(getattr(self.rows, part), self.limit)

    def longest(self) -> Micro:
        """The longest training row alone; where lengths are not known, one that fills the limit."""
        if self.rows.data is None:
            return self.micro([0], [self.limit])
        row = int((self.lengths("train") + self.answers).argmax())
        return self.micro([row], [int(self.lengths("train")[row])])

    def micro(self, rows: list[int], lengths: list[int]) -> Micro:
        """Training rows together."""
        trees = None if self.taught is None else tuple(self.taught(row) for row in rows)
        return Micro(tuple(lengths), self.header, trees)

    def training(self, settings: Training, budget: int, seed: int) -> Work:
        """One epoch, the fullest micro-batch being that of all epochs."""
        texts = self.lengths("train")
        lengths = texts + self.answers
        updates = math.ceil(len(lengths) / settings.batch)
        if self.rows.data is None:
            each = max(1, min(settings.batch, budget // (self.limit + int(self.answers))))
            cut = math.ceil(settings.batch * int(lengths[0]) / max(budget, int(lengths[0])))
            fullest, several, count = self.micro([0] * each, [self.limit] * each), each < settings.batch, updates * cut
        else:
            rng = generator(seed, "order of the training rows")
            drawn = epochs(lengths, batch=settings.batch, budget=Budget(budget), rng=rng)
            seen = list(itertools.islice(drawn, min(UPDATES, max(1, math.ceil(settings.epochs * updates)))))
            best = max((rows for update in seen for rows in update), key=lambda rows: int(lengths[rows].sum()))
            fullest = self.micro(best.tolist(), texts[best].tolist())
            several = any(len(update) > 1 for update in seen)
            count = sum(map(len, seen)) / len(seen) * updates
        tokens = float(lengths.sum()) + count * self.header
        return Work(fullest, count, tokens, several)

    def predicting(self, part: str, budget: int) -> Work:
        """One pass over a part without training, longest rows first."""
        texts = self.lengths(part)
        if not len(texts):
            return Work(Micro((1,)), 0, 0)
        behind = np.array([len(tree.tokens) for tree in self.asked] or [0])
        lengths = (behind[:, None] + texts).ravel()  # job k: text k % N behind tree k // N, as label_probs has it
        if self.rows.data is None:
            each = max(1, min(len(lengths), budget // (self.limit + int(behind.max()))))
            first, jobs, count = [self.limit] * each, np.full(each, behind.argmax()), math.ceil(lengths.sum() / budget)
        else:
            groups = by_length(lengths, budget)
            first, jobs, count = texts[groups[0] % len(texts)].tolist(), groups[0] // len(texts), len(groups)
        trees = tuple(self.asked[k] for k in jobs) if self.asked else None
        total = float(lengths.sum()) + self.header  # which is kept
        return Work(Micro(tuple(first), self.header, trees), count, total)


def packed(config: Embedding | Instruction | Encoder | Probe, backbone: Backbone, rows: Rows, seed: int) -> Texts:
    """`rows` as the method packs them. Raises ModelError where the prompt leaves no room for text."""
    limit = min(config.max_length, backbone.window)
    if not isinstance(config, Instruction):
        if config.long.keep == "windows":  # counted as one stretch: an upper bound, for windows attend to less
            whole, limit = limit, limit * config.long.most
            rows = replace(
                rows,
                **{
                    part: spread(getattr(rows, part), whole, config.long.overlap) for part in ("train", "valid", "test")
                },
            )
        return Texts(rows, limit)
    prompt = prompt_of(config, backbone, rows)
    pick = generator(seed, "labels asked about")

    longest = grow([max((prompt.answer_path(j) for j in range(len(prompt.answers))), key=lambda path: len(path[1]))])

    def taught(row: int) -> Tree:
        return longest if rows.data is None else lesson(prompt, backbone, rows.data, row, config.questions, pick)[0]

    answers = len(longest.tokens) if rows.data is None else answer_tokens(prompt, rows.data, questions=config.questions)
    asked = tuple(tree for _, tree in answer_trees(prompt, rows.labels))
    return Texts(rows, room_for_text(backbone, prompt, config), len(prompt.header), answers, taught, asked)


def spread(lengths: np.ndarray, window: int, overlap: float) -> np.ndarray:
    """Tokens of texts (N,) int64 in windows, what is read twice counted twice."""
    return np.where(lengths > window, np.ceil(lengths / (1 - overlap)), lengths).astype(np.int64)


def prompt_of(config: Instruction, backbone: Backbone, rows: Rows) -> Prompt:
    """The prompt, as methods/instruction.py makes it."""
    return make_prompt(
        backbone.tokenizer,
        rows.labels,
        template=config.prompt,
        chat=config.chat == "auto",
        verbalizer=config.verbalizer,
        separator=config.label_separator,
        room=min(config.max_length, backbone.window) // 2,
    )
