"""The data doctor: each finding on rows that have it, none on rows that are in order, and what --fix leaves out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tiny import dataset

from lasttoken.check.examine import examine
from lasttoken.check.finding import Finding
from lasttoken.check.fix import write_fixed
from lasttoken.check.near import jaccard, near_duplicates, shingles_of
from lasttoken.data.dataset import Rows
from lasttoken.data.read import Columns, read_rows
from lasttoken.errors import DataError

LONG = (
    "the quick brown fox jumps over the lazy dog while seven wizards quietly box up five dozen liquor jugs for the king"
)


def rows(texts: list[str], labels: list[str] | None = None, splits: list[str] | None = None) -> Rows:
    truth = None if labels is None else [(name,) for name in labels]
    return Rows([f"r{i}" for i in range(len(texts))], texts, truth, False, None, splits)


def found(given: Rows, kind: str) -> Finding | None:
    return next((finding for finding in examine(given) if finding.kind == kind), None)


def ids(finding: Finding | None) -> list[str]:
    assert finding is not None
    return [place.id for place in finding.places]


def test_rows_in_order_have_no_serious_finding() -> None:
    data = dataset(120)
    texts = [f"{text} {i}" for i, text in enumerate(data.texts)]
    assert [f.kind for f in examine(rows(texts, data.labels.decode(data.targets))) if f.serious] == []


def test_empty_and_repeated_rows() -> None:
    given = rows(["a b", " ", "a b", "a b", "c"], ["x", "x", "x", "x", "y"])
    assert ids(found(given, "empty")) == ["r1"]
    duplicates = found(given, "duplicates")
    assert ids(duplicates) == ["r2", "r3"]
    assert duplicates is not None
    assert duplicates.places[0].detail == "as r0"


def test_rows_without_their_label_are_told_and_left_out_of_all_else() -> None:
    given = Rows(["a", "b", "c"], ["one", "one", "two"], [("x",), (), ("y",)], False)
    findings = examine(given)
    assert [f.kind for f in findings if f.serious] == ["unlabelled", "rare-labels"]
    assert ids(findings[0]) == ["b"]  # and no conflict with row a, which says the same
    assert [f.kind for f in examine(Rows(["a"], ["one"], [()], False))] == ["unlabelled"]
    assert found(Rows(["a", "b"], ["one", "two"], [("x",), ()], True), "unlabelled") is None


def test_only_rows_are_examined() -> None:
    with pytest.raises(DataError, match="examine takes what read_rows returns, not an object of type list"):
        examine(["a text"])  # type: ignore[arg-type]


def test_one_text_under_two_labels() -> None:
    given = rows(["a b", "c", "a b"], ["x", "y", "y"])
    assert ids(found(given, "conflicts")) == ["r0", "r2"]
    assert found(given, "duplicates") is None


def test_copies_across_a_given_split() -> None:
    given = rows(
        [LONG, "other words", LONG, LONG + " again"], ["x", "y", "x", "x"], ["train", "train", "test", "valid"]
    )
    assert ids(found(given, "copies-across-splits")) == ["r0", "r2"]
    assert ids(found(given, "near-copies-across-splits")) == ["r0", "r2", "r3"]
    assert found(rows([LONG, LONG], ["x", "x"]), "copies-across-splits") is None


def test_near_duplicates_are_those_that_share_most_shingles() -> None:
    words = LONG.split()
    one_off = " ".join([*words[:-1], "queen"])
    half = " ".join(words[: len(words) // 2] + ["something", "else"] * 6)
    assert near_duplicates([LONG, half, one_off, LONG.upper(), "", ""]) == [[0, 2, 3]]
    assert jaccard(shingles_of(LONG), shingles_of(half)) < 0.8 <= jaccard(shingles_of(LONG), shingles_of(one_off))


def test_hardly_any_near_duplicate_is_missed() -> None:
    random = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(2000)]
    texts = []
    for _ in range(300):
        words = [vocabulary[i] for i in random.integers(0, 2000, 60)]
        texts += [" ".join(words), " ".join([*words[:-2], "x", "y"])]
    groups = near_duplicates(texts)
    assert len(groups) >= 298
    assert all(group[1] == group[0] + 1 for group in groups)


def test_names_and_small_classes() -> None:
    given = rows([f"text {i}" for i in range(60)], ["a"] * 45 + ["A "] * 11 + ["rare"] * 4)
    names = found(given, "names")
    assert names is not None
    assert "'A ' and 'a'" in names.sentence
    few, imbalance = found(given, "rare-labels"), found(given, "imbalance")
    assert few is not None
    assert few.sentence == "1 of 3 labels has fewer than 10 rows: 'rare' (4)"
    assert imbalance is not None
    assert imbalance.sentence == "'a' has 45 rows, 'rare' 4: 11 times as many"


def test_mislabelled_rows_come_first() -> None:
    data = dataset(400, seed=3)
    names = data.labels.decode(data.targets)
    wrong = list(range(0, 60, 6))
    flipped = [data.labels.names[(data.targets[i] + 1) % 3] if i in wrong else name for i, name in enumerate(names)]
    finding = found(rows([f"{text} {i}" for i, text in enumerate(data.texts)], flipped), "label-errors")
    first = {f"r{i}" for i in wrong}
    assert len(first & set(ids(finding))) >= 7  # of ten
    assert set(ids(finding)[:7]) <= first
    assert finding is not None
    assert ", probably " in finding.places[0].detail


def test_mislabelled_rows_of_several_labels() -> None:
    random = np.random.default_rng(0)
    truth = random.random((400, 2)) < 0.5
    texts = [
        " ".join(["the", *(word for word, yes in zip(("goal", "price"), row, strict=True) if yes)]) for row in truth
    ]
    wrong = list(range(0, 60, 6))
    truth[wrong, 0] ^= True
    named = [tuple(name for name, yes in zip(("sport", "trade"), row, strict=True) if yes) for row in truth]
    finding = found(Rows([f"r{i}" for i in range(400)], texts, named, True), "label-errors")
    assert finding is not None
    first = {f"r{i}" for i in wrong}
    assert len(first & set(ids(finding))) >= 8  # of ten
    assert set(ids(finding)[:8]) <= first
    details = [place.detail for place in finding.places[:8]]
    assert all(re.match(r"not sport, probably so \(0|sport, probably not \(0", detail) for detail in details)


def test_a_label_that_every_row_has_is_no_reason_to_fail() -> None:
    random = np.random.default_rng(0)
    named = [("news", *(name for name in ("sport", "trade") if random.random() < 0.5)) for _ in range(260)]
    given = Rows(
        [f"r{i}" for i in range(260)], [f"the {' '.join(names)} {i}" for i, names in enumerate(named)], named, True
    )
    assert found(given, "label-errors") is None  # the other two stand in the text
    alone = Rows(given.ids, given.texts, [names[:1] for names in named], True)
    assert found(alone, "label-errors") is None


def test_broken_and_invisible_characters() -> None:
    texts = [
        "cafÃ©",
        "fine",
        "a\x07b",
        "naïve café €",
        "lost \ufffd",
        "zero\u200bwidth",
        "\u202eturned",
        "👩\u200d💻 \u200f",
    ]
    assert ids(found(rows(texts, list("xyxyxyxy")), "characters")) == ["r0", "r2", "r4", "r5", "r6"]


def test_labels_given_away() -> None:
    texts = [f"[spam mail] offer {i}" for i in range(20)] + [f"hello {i}" for i in range(20)]
    finding = found(rows(texts, ["spam_mail"] * 20 + ["ham"] * 20), "label-in-text")
    assert finding is not None
    assert "spam_mail (100% of its rows, 0% of others)" in finding.sentence
    assert ids(finding) == [f"r{i}" for i in range(20)]
    assert finding.places[0].detail == "spam_mail: [spam mail] offer 0"


def test_tokens() -> None:
    from transformers import AutoTokenizer

    from lasttoken.model.load import TINY

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    given = rows([LONG, "short"] * 3, ["card lost", "card stolen"] * 3)
    findings = {finding.kind: finding for finding in examine(given, tokenizer=tokenizer, limit=10)}
    assert ids(findings["truncated"]) == ["r0", "r2", "r4"]
    assert findings["truncated"].serious
    assert "tokens per word" in findings["lengths"].sentence
    assert findings["lengths"].chart == (
        "to  8 tokens  50.0% ██████████████████████████████",
        "to 16 tokens   0.0%",
        "to 32 tokens   0.0%",
        "to 64 tokens  50.0% ██████████████████████████████",
    )
    assert "'card lost', 'card stolen'" in findings["first-token"].sentence


@pytest.mark.parametrize("labels", [None, ["x"] * 3])
def test_few_rows_and_no_labels(labels: list[str] | None) -> None:
    assert [f.kind for f in examine(rows(["a", "b", "c"], labels))] == ([] if labels is None else ["one-label"])


def test_a_rare_label_near_a_frequent_one_may_be_misspelt() -> None:
    labels = ["billing"] * 60 + ["biling", "shipping", "A61K0", "A61K1"]
    one = found(rows([f"text {i} {i}" for i in range(len(labels))], labels), "misspelt")
    assert ids(one) == ["r60"]
    assert one is not None
    assert one.sentence == "'biling', the label of 1 row, may be 'billing' misspelt"
    assert one.serious
    assert one.remedy == "write it alike, if they are one: 'billing' has 60 rows"


def test_quotes_read_as_control_characters_are_a_wrong_encoding(tmp_path: Path) -> None:
    source = tmp_path / "r.csv"
    source.write_bytes("text,label\n“It’s”\x07 — café’s,x\nplain é,y\n".encode("cp1252") + "Ó,z\n".encode())
    columns = Columns(text=("text",), label=("label",))
    given = read_rows(source, columns=columns, encoding="latin-1")
    findings = examine(given)
    encoding = next(finding for finding in findings if finding.kind == "encoding")
    assert (ids(encoding), encoding.serious) == (["0"], True)
    assert encoding.places[0].detail == r"'\x92' for ’, '\x93' for “, '\x94' for ”, '\x97' for —"
    assert "--encoding cp1252" in encoding.remedy
    assert ids(found(given, "characters")) == ["0", "2"]  # the bell, and UTF-8 that was read as Latin-1
    dropped, cleaned = write_fixed(source, tmp_path / "f.csv", given, findings, columns=columns, encoding="latin-1")
    assert (dropped, cleaned) == (0, 1)
    assert read_rows(tmp_path / "f.csv", columns=columns).texts[0] == "\x93It\x92s\x94 \x97 caf\xe9\x92s"
    assert found(read_rows(source, columns=columns, encoding="cp1252"), "encoding") is None
    assert ids(found(rows(["a", "b"], ["it\x92s", "x"]), "encoding")) == ["r0"]


def test_labels_of_the_test_part_alone_are_no_rare_ones() -> None:
    given = rows([f"text {i}" for i in range(33)], ["a"] * 20 + ["b"] * 12 + ["c"], ["train"] * 30 + ["test"] * 3)
    unseen = found(given, "unseen-labels")
    assert unseen is not None
    assert unseen.sentence == "1 label stands in test alone, so it can never be predicted: 'c'; rows with them: 1"
    assert found(given, "rare-labels") is None
    assert found(rows(given.texts, ["a"] * 20 + ["b"] * 12 + ["c"]), "rare-labels") is not None


def test_rows_that_a_quotation_mark_joined_are_found(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_text('text\tlabel\n"one\ta\ntwo"\tb\n', encoding="utf-8")
    columns = Columns(text=("text",), label=("label",))
    finding = found(read_rows(tmp_path / "r.tsv", columns=columns), "quoting")
    assert finding is not None
    assert "r.tsv:2: the quoted cell that begins here spans 2 lines" in finding.sentence


def test_a_fixed_copy_keeps_quotes_that_are_characters_and_rows_without_a_key(tmp_path: Path) -> None:
    columns = Columns(text=("text",), label=("label",))
    source, target = tmp_path / "r.tsv", tmp_path / "f.tsv"
    source.write_text('text\tlabel\n"one\ta\ntwo"\tb\n', encoding="utf-8")
    given = read_rows(source, columns=columns, quoting="none")
    write_fixed(source, target, given, examine(given), columns=columns, quoting="none")
    assert read_rows(target, columns=columns).texts == ['"one', 'two"']
    source, target = tmp_path / "r.json", tmp_path / "f.jsonl"
    source.write_text('[{"text": "one", "label": "a"}, {"text": "two"}]', encoding="utf-8")
    given = read_rows(source, columns=columns, keep_empty=True)
    assert write_fixed(source, target, given, examine(given), columns=columns) == (1, 0)
    assert read_rows(target, columns=columns).texts == ["one"]
    with pytest.raises(DataError, match=r"f\.json: files ending in '\.json' cannot be written; use one of \.csv"):
        write_fixed(source, tmp_path / "f.json", given, [], columns=columns)


def test_columns_that_are_no_text_and_no_label_are_told() -> None:
    data = dataset(60)
    names = [data.labels.names[j] for j in data.targets.tolist()]
    swapped = found(rows(names, data.texts), "columns")
    assert swapped is not None
    assert swapped.sentence.endswith(" different texts; are --text and --label swapped?")
    numbers = found(rows([str(i) for i in range(60)], names), "columns")
    assert numbers is not None
    assert numbers.sentence.startswith("60 of 60 texts have no letter, such as '0'")
    assert found(rows(data.texts, names), "columns") is None
    mixed = found(rows(["hello", *map(str, range(59))], names), "columns")
    assert mixed is not None
    assert "such as '0'" in mixed.sentence


def test_no_row_looks_mislabelled_where_texts_do_not_tell_labels() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["one", "two", "three", "four", "five", "six"], 6)) for _ in range(300)]
    names = ["ab"[j] for j in (random.random(300) < 0.35).astype(int)]
    finding = found(rows(texts, names), "label-errors")
    assert finding is not None
    assert finding.sentence.startswith("mislabelled rows were not looked for")
    assert finding.places == ()


def test_mislabelled_rows_of_a_rare_label_are_looked_for() -> None:
    """Always naming the common label is right more often than the model, which knows the rare one all the same."""
    random = np.random.default_rng(0)
    rare = random.random(400) < 0.1
    said = np.where(rare ^ (random.random(400) < 0.02), "spam", "ham").tolist()
    texts = [
        " ".join([*random.choice(["one", "two", "three"], 5), "offer" if is_rare and i % 3 else "four"])
        for i, is_rare in enumerate(rare.tolist())
    ]
    finding = found(rows(texts, said), "label-errors")
    assert finding is None or "were not looked for" not in finding.sentence
