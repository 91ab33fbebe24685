"""How a GGUF file's tokenizer cuts text, and what sentencepiece would merge."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers.implementations import SentencePieceBPETokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lasttoken.model.gguf_header import Header
from lasttoken.model.gguf_tokenizer import SPACE, read_tokenizer

TEXT = "It's  I'LL 12345\r\n\n  HelloWorld, é/été!\n日本語 👍\t"
# As the regular expressions of the models' own tokenizer.json cut it, read by hand.
PIECES = {  # with | between
    "gpt-2": "It|'s| | I|'|LL| 12345|\r\n\n | HelloWorld|,| é|/|été|!|\n|日本語| 👍|\t",
    "smollm": "It|'s| | I|'|LL| |1|2|3|4|5|\r\n\n | HelloWorld|,| é|/|été|!|\n|日本語| 👍|\t",
    "llama-bpe": "It|'s| | I|'LL| |123|45|\r\n\n| | HelloWorld|,| é|/été|!\n|日本語| 👍|\t",
    "qwen2": "It|'s| | I|'LL| |1|2|3|4|5|\r\n\n| | HelloWorld|,| é|/été|!\n|日本語| 👍|\t",
    "tekken": "It|'s| | I|'LL| |1|2|3|4|5|\r\n\n| | Hello|World|,| é|/été|!\n|日本語| 👍|\t",
}
ALIKE = {
    "gpt-2": ["phi-2"],
    "smollm": ["starcoder", "refact"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3"],
    "qwen2": ["deepseek-r1-qwen"],
}


def made(**values: Any) -> Header:
    """The header of a file of which only the tokenizer counts."""
    named = {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    return Header(Path("m.gguf"), {"general.architecture": "llama", **named}, {}, 0)


@pytest.mark.parametrize(
    ("pre", "pieces"), [(p, PIECES[like]) for like in PIECES for p in (like, *ALIKE.get(like, []))]
)
def test_text_is_cut_as_the_file_says(pre: str, pieces: str) -> None:
    letters = bytes_to_unicode()
    tokenizer = read_tokenizer(made(model="gpt2", pre=pre, tokens=sorted(ByteLevel.alphabet()), merges=[]))
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)
    assert [piece for piece, _ in cut] == [
        "".join(letters[byte] for byte in piece.encode()) for piece in pieces.split("|")
    ]
    ids = tokenizer(TEXT)["input_ids"]
    assert len(ids) == len(TEXT.encode())  # without merges, a token a byte
    assert tokenizer.decode(ids) == TEXT


@pytest.mark.parametrize(("pre", "whole"), [("llama-bpe", True), ("tekken", True), ("qwen2", False), ("gpt-2", False)])
def test_a_word_of_the_vocabulary_is_one_token_where_merges_do_not_count(pre: str, whole: bool) -> None:
    tokens = [*sorted(ByteLevel.alphabet()), "guitar"]
    tokenizer = read_tokenizer(made(model="gpt2", pre=pre, tokens=tokens, merges=[]))
    assert (tokenizer("guitar")["input_ids"] == [256]) is whole


def test_special_tokens_are_matched_first_and_only_those() -> None:
    tokens = [*sorted(ByteLevel.alphabet()), "<|im_start|>", "<think>", "<plain>"]
    header = made(model="gpt2", pre="gpt-2", tokens=tokens, merges=[], token_type=[1] * 256 + [3, 4, 1])
    tokenizer = read_tokenizer(header)
    assert tokenizer("<|im_start|><think>")["input_ids"] == [256, 257]
    assert len(tokenizer("<plain>")["input_ids"]) == 7
    assert tokenizer.decode([256, 257], skip_special_tokens=True) == "<think>"


WORDS = "the song of the singer and the band plays a melody in the concert hall on saturday evening again".split()


@pytest.fixture(scope="module")
def learnt() -> list[str]:
    """A vocabulary of sentencepiece: special tokens, bytes, and pieces in the order in which they are merged."""
    trainer = SentencePieceBPETokenizer(add_prefix_space=True)
    trainer.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=120, min_frequency=1, show_progress=False)
    pieces = sorted(trainer.get_vocab(), key=trainer.get_vocab().__getitem__)
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces[1:]]


def merged(text: str, tokens: list[str], scores: list[float]) -> list[str]:
    """Sentencepiece: the neighbours that make the piece of the highest score are joined, the leftmost of equals first."""
    ranks, pieces = dict(zip(tokens, scores, strict=True)), list(text)
    while True:
        joins = [(-ranks[a + b], i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in ranks]
        if not joins:
            break
        _, i = min(joins)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return [
        one for piece in pieces for one in ([piece] if piece in ranks else (f"<0x{b:02X}>" for b in piece.encode()))
    ]


@pytest.mark.parametrize("spaced", [True, False])
def test_sentencepiece_merges_by_score(learnt: list[str], spaced: bool) -> None:
    scores = [0.0 if token.startswith("<") else -float(rank) for rank, token in enumerate(learnt)]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(learnt) - 259)]
    values = {"tokens": learnt, "scores": scores, "token_type": types, "bos_token_id": 1, "eos_token_id": 2}
    tokenizer = read_tokenizer(made(model="llama", **values, add_space_prefix=spaced))
    rng = random.Random(0)
    drawn = [" ".join(rng.choices([*WORDS, "Zürich", "日本", "👍", "  ", "\n"], k=8)) for _ in range(200)]
    for text in [*drawn, "", " ", "  two", "a\n\nb"]:
        whole = (SPACE if spaced and text else "") + text.replace(" ", SPACE)
        wanted = ["<s>", *merged(whole, learnt, scores)]
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == wanted, text
        assert tokenizer.decode(tokenizer(text)["input_ids"][1:]) == text


def test_gemma_merges_in_the_order_of_its_tokens(learnt: list[str]) -> None:
    """Its scores tell nothing about the order."""
    values = {"tokens": learnt, "scores": [-1000.0] * len(learnt), "add_space_prefix": False, "bos_token_id": 1}
    header = made(model="llama", **values)
    header.values["general.architecture"] = "gemma3"
    text = "the singer plays on saturday"
    wanted = merged(text.replace(" ", SPACE), learnt, [-float(rank) for rank in range(len(learnt))])
    tokenizer = read_tokenizer(header)
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == ["<s>", *wanted]
