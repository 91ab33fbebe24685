"""Checks of texts: empty rows, duplicates, wrong encoding, invisible characters, and label names in the text."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from lasttoken.check.finding import Finding, Place, shown
from lasttoken.check.near import near_duplicates
from lasttoken.data.dataset import Rows
from lasttoken.wording import counted

MOJIBAKE = re.compile(
    "[ÃÂâ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|\ufffd"
)  # UTF-8 decoded as Latin-1, or undecodable
UTF8_AS_LATIN = re.compile(  # complete sequences only: "caf\u00e9\u0092s" has none
    "[\u00c2-\u00df][\u0080-\u00bf]|[\u00e0-\u00ef][\u0080-\u00bf]{2}|[\u00f0-\u00f4][\u0080-\u00bf]{3}"
)
CONTROLS = re.compile("[\u0080-\u009f]")  # C1 controls: in text, nearly always cp1252 decoded as Latin-1
UNSEEN = "\u200b\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # zero-width characters and bidirectional controls
GIVEN_AWAY = 0.3  # smallest share of a label's rows that contain its name for a leak
TIMES = 5.0  # smallest ratio of that share to the share in other rows


def empty(rows: Rows) -> Iterator[Finding]:
    """Rows without text, and rows without a label."""
    for kind, what, has in (("empty", "text", Rows.has_text), ("unlabelled", "label", Rows.has_label)):
        found = [Place(row) for i, row in enumerate(rows.ids) if not has(rows, i)]
        if found:
            yield Finding(
                kind,
                f"{len(found)} of {len(rows)} rows have no {what}",
                tuple(found),
                "remove them with --fix cleaned.csv, or skip them with --drop-empty in train and compare",
            )


def copies(rows: Rows) -> Iterator[Finding]:
    """Texts that occur more than once: with equal labels, with different labels, and in several splits."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(rows.texts):
        if rows.has_text(i):
            places[text].append(i)
    several = [group for group in places.values() if len(group) > 1]
    truth = rows.labels or [()] * len(rows)
    same = [group for group in several if len({truth[i] for i in group}) == 1]
    if same:
        count = sum(len(group) - 1 for group in same)
        yield Finding(
            "duplicates",
            counted(count, "row repeats", "rows repeat") + " the text and label of an earlier row",
            tuple(Place(rows.ids[i], f"as {rows.ids[group[0]]}") for group in same for i in group[1:]),
            "remove them with --fix cleaned.csv, or keep equal texts in one split: --group with the text column",
        )
    clashing = [group for group in several if len({truth[i] for i in group}) > 1]
    if clashing:
        yield Finding(
            "conflicts",
            f"{counted(len(clashing), 'text occurs', 'texts occur')} with different labels, {sum(map(len, clashing))} rows in all",
            tuple(Place(rows.ids[i], f"{', '.join(truth[i])}: {cut(rows.texts[i])}") for g in clashing for i in g),
            "no classifier can be right on all of them; choose one label",
        )
    yield from across(rows, several, "the same text", "copies")


def near(rows: Rows) -> Iterator[Finding]:
    """Texts that differ by a few words."""
    groups = near_duplicates(rows.texts)
    groups = [group for group in groups if len({rows.texts[i] for i in group}) > 1]
    if groups:
        yield Finding(
            "near-duplicates",
            f"{sum(map(len, groups))} rows in {counted(len(groups), 'group', 'groups')} differ from each other by a few words",
            tuple(Place(rows.ids[i], f"group {n}: {cut(rows.texts[i])}") for n, g in enumerate(groups, 1) for i in g),
            "a random split can put them into different splits; give each group one value in a --group column",
            serious=False,
        )
    yield from across(rows, groups, "nearly the same text", "near-copies")


def across(rows: Rows, groups: Sequence[Sequence[int]], what: str, kind: str) -> Iterator[Finding]:
    """Groups of rows that span several of the given splits."""
    if rows.splits is None:
        return
    parts = rows.splits
    crossing = [group for group in groups if len({parts[i] for i in group}) > 1]
    if crossing:
        test = sum(parts[i] == "test" for group in crossing for i in group)
        yield Finding(
            f"{kind}-across-splits",
            f"{what} occurs in more than one split {counted(len(crossing), 'time', 'times')}, "
            f"{counted(test, 'test row', 'test rows')} affected",
            tuple(Place(rows.ids[i], f"{parts[i]}: {cut(rows.texts[i])}") for group in crossing for i in group),
            "they inflate scores; remove them from valid and test",
        )


def wrong_encoding(rows: Rows) -> Iterator[Finding]:
    """Texts and labels with C1 control characters: quotes and dashes of cp1252 decoded as Latin-1."""
    found = []
    for i, (row, text) in enumerate(zip(rows.ids, rows.texts, strict=True)):
        whole = "\n".join((text, *(rows.labels[i] if rows.labels else ())))
        marks = set() if whole.isascii() else set(CONTROLS.findall(UTF8_AS_LATIN.sub("", whole)))
        if marks:
            meant = ", ".join(
                f"{mark!r} for {mark.encode('latin-1').decode('cp1252', 'replace')}" for mark in sorted(marks)
            )
            found.append(Place(row, meant))
    if found:
        yield Finding(
            "encoding",
            f"{counted(len(found), 'row holds', 'rows hold')} control characters U+0080 to U+009F: quotes, dashes or euro signs "
            "of the encoding cp1252 that were read as latin-1",
            tuple(found),
            "read the source with --encoding cp1252; where it is UTF-8 already, convert the original again; --fix leaves them",
        )


def characters(rows: Rows) -> Iterator[Finding]:
    """Texts with control or invisible characters, or signs of a wrong encoding."""
    found = []
    for row, text in zip(rows.ids, rows.texts, strict=True):
        marks = set(MOJIBAKE.findall(text)) | {
            c
            for c in text
            if (unicodedata.category(c) in ("Cc", "Co") and c not in "\n\r\t" and not CONTROLS.match(c)) or c in UNSEEN
        }
        if marks:
            found.append(Place(row, " ".join(sorted(map(repr, marks)))))
    if found:
        yield Finding(
            "characters",
            f"{counted(len(found), 'row holds invisible characters or looks', 'rows hold invisible characters or look')} as if "
            "read in a wrong encoding",
            tuple(found),
            "read the source again with its own encoding (--encoding); --fix cleaned.csv takes control and invisible characters out",
            serious=False,
        )


def leakage(rows: Rows) -> Iterator[Finding]:
    """Labels whose name occurs in their own texts far more often than in others."""
    if rows.labels is None:
        return
    names = sorted({name for labels in rows.labels for name in labels})
    telling, places = [], list[Place]()
    texts = [f" {words_of(text)} " for text in rows.texts]
    for name in names:
        words = words_of(name)
        if len(words) < 3:  # a letter or a number occurs by chance
            continue
        holds = [f" {words} " in text for text in texts]
        own = [h for h, labels in zip(holds, rows.labels, strict=True) if name in labels]
        others = [h for h, labels in zip(holds, rows.labels, strict=True) if name not in labels]
        mine, rest = sum(own) / len(own), sum(others) / max(1, len(others))
        if mine >= GIVEN_AWAY and mine >= TIMES * rest:
            telling.append(f"{name} ({mine:.0%} of its rows, {rest:.0%} of others)")
            found = [i for i, labels in enumerate(rows.labels) if name in labels and holds[i]]
            places += [Place(rows.ids[i], f"{name}: {cut(rows.texts[i])}") for i in found]
    if telling:
        yield Finding(
            "label-in-text",
            f"the text names its label: {shown(telling)}",
            tuple(places),
            "fine if new texts contain it too; if it came with the label, it gives the answer away",
            serious=False,
        )


def words_of(text: str) -> str:
    """The words of a text in lower case, joined by spaces; an underscore separates words."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def cut(text: str) -> str:
    """The first 80 characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
