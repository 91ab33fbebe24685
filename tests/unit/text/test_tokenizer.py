"""Texts to ids under a limit, and what the limit cost."""

import numpy as np
import pytest
from tiny import make_tokenizer

from lasttoken.errors import UserError
from lasttoken.text.tokenizer import Encoded, encode, encode_windows, end_token, with_suffix


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    tokenizer = make_tokenizer()
    plain = tokenizer("goal", add_special_tokens=False)["input_ids"]
    assert encode(tokenizer, ["goal"], limit=9).ids[0].tolist() == [0, *plain]
    assert encode(tokenizer, ["goal"], limit=9, special=False).ids[0].tolist() == plain
    assert encode(make_tokenizer(encoder=True), ["goal"], limit=9).ids[0].tolist() == [0, *plain, 2]
    assert encode(make_tokenizer(bos=False), ["goal"], limit=9).ids[0].tolist() == plain


def test_truncation_keeps_the_head_and_the_special_tokens_and_counts_the_rest() -> None:
    tokenizer = make_tokenizer(encoder=True)
    whole = tokenizer("xyxyxyxyxy", add_special_tokens=False)["input_ids"]
    encoded = encode(tokenizer, ["xy", "xyxyxyxyxy"], limit=5)
    short = len(tokenizer("xy")["input_ids"])
    assert encoded.ids[1].tolist() == [0, *whole[:3], 2]
    assert encoded.lost.tolist() == [0, len(whole) + 2 - 5]
    assert encoded.lengths.tolist() == [short, 5]


def test_a_text_without_tokens_becomes_one_end_token() -> None:
    encoded = encode(make_tokenizer(bos=False), ["", "goal"], limit=9)
    assert encoded.ids[0].tolist() == [2]
    assert encoded.lost.tolist() == [0, 0]


def test_no_texts() -> None:
    encoded = encode(make_tokenizer(), [], limit=9)
    assert len(encoded) == 0
    assert encoded.lengths.tolist() == []


def test_the_sentence_about_truncation() -> None:
    ids = [np.zeros(10, dtype=np.int32), np.zeros(10, dtype=np.int32), np.zeros(4, dtype=np.int32)]
    cut, whole = Encoded(ids, np.array([0, 6, 0]), 10).truncation(), Encoded(ids, np.zeros(3, int), 10).truncation()
    assert str(cut) == "1 of 3 rows were truncated at 10 tokens: 20.0% of all tokens cut, 6 of the longest row"
    assert cut
    assert not whole
    assert str(cut + whole) == "1 of 6 rows were truncated at 10 tokens: 11.1% of all tokens cut, 6 of the longest row"


@pytest.mark.parametrize(
    ("removed", "wanted"),
    [((), 2), (("eos_token",), 2), (("eos_token", "sep_token"), 1), (("eos_token", "sep_token", "pad_token"), 0)],
)
def test_the_token_that_ends_a_text(removed: tuple[str, ...], wanted: int) -> None:
    tokenizer = make_tokenizer(encoder=True)
    for name in removed:
        setattr(tokenizer, name, None)
    assert end_token(tokenizer) == wanted


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_below_the_special_tokens_is_refused_or_kept(limit: int) -> None:
    try:
        encoded = encode(make_tokenizer(encoder=True), ["goal team player"], limit=limit)
    except UserError as error:
        assert "max_length" in str(error)  # noqa: PT017 - either outcome is sound, a longer row is not
        return
    assert encoded.lengths[0] <= limit


def test_a_lone_surrogate_is_text_too() -> None:
    """A JSON file may hold one ("\\ud83d" without its other half); it is not a reason to crash."""
    encoded = encode(make_tokenizer(), ["goal \ud83d team"], limit=20)
    assert encoded.lengths[0] > 5


def test_a_limit_does_not_stay_with_the_tokenizer() -> None:
    tokenizer = make_tokenizer()
    encode(tokenizer, ["goal team player"], limit=3)
    assert len(tokenizer("goal team player")["input_ids"]) > 3
    assert encode(tokenizer, ["goal team player"], limit=99).lost.tolist() == [0]


def test_either_end_or_both_may_be_kept() -> None:
    tokenizer = make_tokenizer(encoder=True)
    text = " ".join(["goal", "match", "melody", "violin"] * 5)
    cls, *body, sep = encode(tokenizer, [text], limit=999).ids[0].tolist()
    limit = 10
    kept = {
        keep: encode(tokenizer, [text], limit=limit, keep=keep).ids[0].tolist()
        for keep in ("head", "tail", "head_tail")
    }
    assert kept["head"] == [cls, *body[:8], sep]
    assert kept["tail"] == [cls, *body[-8:], sep]
    assert kept["head_tail"] == [cls, *body[:2], *body[-6:], sep]


def test_windows_cover_a_text_and_overlap() -> None:
    tokenizer = make_tokenizer()  # opens with BOS
    text = " ".join(["goal", "match", "melody", "violin"] * 5)
    bos, *body = encode(tokenizer, [text], limit=999).ids[0].tolist()
    found = encode_windows(tokenizer, [text, "goal"], limit=9, overlap=0.25, most=99)
    assert found.windows is not None
    pieces = np.split(found.ids[0], np.cumsum(found.windows[0])[:-1])
    assert all(piece[0] == bos and len(piece) <= 9 for piece in pieces)
    assert [token for i, piece in enumerate(pieces) for token in piece.tolist()[1 if i == 0 else 3 :]] == body
    assert found.windows[1] == [len(found.ids[1])]
    assert found.lost.tolist() == [0, 0]
    assert found.segments(np.array([1, 0])) == [*found.windows[1], *found.windows[0]]
    assert found.counts(np.array([1, 0])) == [1, len(pieces)]


def test_what_lies_behind_the_last_window_is_told() -> None:
    tokenizer = make_tokenizer()
    text = " ".join(["goal"] * 50)
    whole = len(encode(tokenizer, [text], limit=999).ids[0])
    found = encode_windows(tokenizer, [text], limit=9, overlap=0.0, most=2)
    assert found.lost.tolist() == [whole - 1 - 16]
    assert found.truncation().cut == 1


def test_a_suffix_follows_every_text_and_window_before_the_special_token_that_ends_it() -> None:
    tokenizer = make_tokenizer(encoder=True)
    added = tokenizer(" it is:", add_special_tokens=False)["input_ids"]
    plain = encode(tokenizer, ["xy", "xyxyxyxyxy"], limit=5)
    longer = with_suffix(tokenizer, plain, " it is:")
    assert [ids.tolist() for ids in longer.ids] == [[*ids[:-1].tolist(), *added, 2] for ids in plain.ids]
    assert longer.truncation() == plain.truncation()  # a suffix is no text, cut or not
    windows = encode_windows(tokenizer, ["xyxyxyxyxy", "xy"], limit=5, overlap=0.0, most=9)
    split = with_suffix(tokenizer, windows, " it is:")
    assert windows.windows
    assert split.windows == [[n + len(added) for n in lengths] for lengths in windows.windows]
    pieces = np.split(windows.ids[0], np.cumsum(windows.windows[0])[:-1])
    assert split.ids[0].tolist() == [t for piece in pieces for t in (*piece[:-1].tolist(), *added, 2)]
    assert split.truncation() == windows.truncation()
