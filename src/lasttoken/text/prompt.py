"""Prompts for instruction tuning, in separately tokenised parts: header, text, footers, answers.

The header (task and labels) is shared by all rows and runs once per batch. After each row's text comes a tree of
footers and answers. Parts are tokenised separately in training and in scoring, so that an answer has the same tokens
in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lasttoken.errors import ConfigError
from lasttoken.labels import LabelSpace
from lasttoken.text.answer_tree import Path
from lasttoken.text.tokenizer import end_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SINGLE = "Classify the text into one of these labels: {labels}\n\nText:\n{text}\n\nLabel:"
MULTI = "Decide which of these labels apply to the text: {labels}\n\nText:\n{text}\n\nLabels:"
SHORT = "Classify the text.\n\nText:\n{text}\n\nLabel:"  # without the label list, which would be too long
SHORT_MULTI = "Decide which labels apply to the text.\n\nText:\n{text}\n\nLabels:"
QUESTION = "\n\nDoes the label {label} apply?"
NONE = "none"  # the answer where no label applies
MARK = "\ue000text\ue000"  # private-use characters, which no template contains


@dataclass(frozen=True, eq=False)
class Prompt:
    """Token ids of every part. A row is header + text + footer + answer; an answer includes the end token."""

    header: np.ndarray  # (P,) int32
    footer: list[int]
    answers: list[list[int]]  # C answers, including the end token
    texts: list[str]  # C answers as text, for parsing generated answers
    questions: list[list[int]]  # C footers, each a yes/no question about one label; empty if single-label
    yes: list[int]
    no: list[int]
    separator: str
    none: list[int]
    listed: bool = True  # whether the label list is in the default template; true for a template of the user

    def to_dict(self) -> dict[str, Any]:
        """The prompt as JSON-compatible values."""
        return {**vars(self), "header": self.header.tolist()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Prompt:
        """The inverse of `to_dict`."""
        return cls(**{**values, "header": np.array(values["header"], dtype=np.int32)})

    def answer_path(self, column: int) -> Path:
        """The path of the answer with one label."""
        return self.footer, self.answers[column]

    def set_path(self, columns: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Path:
        """The path of the answer that lists several labels, in label-space order, or none."""
        if not len(columns):
            return self.footer, self.none
        joined = self.separator.join(self.texts[j].strip() for j in columns)
        lead = " " if self.texts[columns[0]].startswith(" ") else ""
        return self.footer, [*plain_ids(tokenizer, lead + joined), end_token(tokenizer)]

    def question_path(self, column: int, applies: bool) -> Path:
        """The path of the yes or no answer to the question whether one label applies."""
        return self.questions[column], self.yes if applies else self.no


def make_prompt(
    tokenizer: PreTrainedTokenizerBase,
    labels: LabelSpace,
    *,
    template: str | None = None,
    chat: bool = True,
    verbalizer: Mapping[str, str] | Literal["numbers"] | None = None,
    separator: str = ", ",
    room: int | None = None,
) -> Prompt:
    """The prompt for a label space. Raises ConfigError on a template without {text} or an invalid verbalizer.

    verbalizer: answers of labels, by default their names. `numbers`: answers 1, 2, ... in label order, listed in the
    prompt as `1: name`.
    chat: use the tokenizer's chat template, if it has one. room: maximum tokens of the label list in the default
    template; a longer list is left out.
    """
    wrapped = chat and bool(tokenizer.chat_template)
    numbered = verbalizer == "numbers"
    if verbalizer == "numbers":
        verbalizer = {name: str(i) for i, name in enumerate(labels.names, 1)}
    names = answer_texts(labels, verbalizer or {}, separator)
    shown = [f"{i}: {label}" for i, label in zip(names, labels.names, strict=True)] if numbered else names
    listed = template is not None or room is None or len(plain_ids(tokenizer, "; ".join(shown))) <= room
    if template is None:
        template = (MULTI if labels.multi else SINGLE) if listed else (SHORT_MULTI if labels.multi else SHORT)
    if template.count("{text}") != 1:
        raise ConfigError([f"prompt: needs {{text}} exactly once, got {template!r}"])
    before, after = (piece.replace("{labels}", "; ".join(shown)) for piece in template.split("{text}"))
    lead = "" if wrapped else " "
    header, footer = render(tokenizer, before, after, wrapped)
    questions = (
        [render(tokenizer, before, QUESTION.replace("{label}", name), wrapped)[1] for name in shown]
        if labels.multi
        else []
    )
    end = [end_token(tokenizer)]
    answers = [[*plain_ids(tokenizer, lead + name), *end] for name in names]
    opening = [] if wrapped else opening_ids(tokenizer)
    return Prompt(
        np.array([*opening, *plain_ids(tokenizer, header)], dtype=np.int32),
        plain_ids(tokenizer, footer),
        answers,
        [lead + name for name in names],
        [plain_ids(tokenizer, question) for question in questions],
        [*plain_ids(tokenizer, lead + "yes"), *end],
        [*plain_ids(tokenizer, lead + "no"), *end],
        separator,
        [*plain_ids(tokenizer, lead + NONE), *end],
        listed,
    )


def answer_texts(labels: LabelSpace, verbalizer: Mapping[str, str], separator: str) -> list[str]:
    """The answer text of each label (C,). Raises ConfigError on unknown labels, and on empty or equal answers."""
    unknown = sorted(verbalizer.keys() - set(labels.names))
    problems = [f"verbalizer: {labels.outside(unknown)}"] if unknown else []
    names = [verbalizer.get(name, name) for name in labels.names]
    problems += [
        f"verbalizer: the answer of {label!r} is empty"
        for label, name in zip(labels.names, names, strict=True)
        if not name.strip()
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"verbalizer: several labels answer {name!r}" for name in twice]
    if labels.multi:
        mark = separator.casefold().strip() or separator  # as infer/generation.py splits
        problems += [f"verbalizer: {name!r} is the answer where no label applies" for name in names if name == NONE]
        problems += [
            f"verbalizer: {name!r} contains the separator {separator!r}; choose another label_separator or another answer"
            for name in names
            if mark in name.casefold()
        ]
    if problems:
        raise ConfigError(problems)
    return names


def render(tokenizer: PreTrainedTokenizerBase, before: str, after: str, chat: bool) -> tuple[str, str]:
    """The prompt before the text and after it, inside the chat template if `chat`."""
    if not chat:
        return before, after
    message = [{"role": "user", "content": before + MARK + after.rstrip()}]
    whole = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    header, _, footer = str(whole).partition(MARK)
    return header, footer


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a part, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens that the tokenizer puts before a text: BOS, or none."""
    ids = list(tokenizer("")["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id else ids
