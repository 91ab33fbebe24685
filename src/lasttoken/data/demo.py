"""Demo data without a download: docstrings of installed Python libraries, labelled with their library.

Source files are parsed, never imported: it is quick, and none of their code runs. Library names are masked in the
texts, so that a classifier has to go by the content.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import random
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lasttoken.data.dataset import Rows
from lasttoken.errors import DataError

LIBRARIES = {  # label -> import name; "" is the standard library
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "python": "",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "sympy": "sympy",
    "torch": "torch",
}
FEWEST_LABELS = 4
SHORTEST, LONGEST = 100, 300  # characters of a text
PER_MODULE = 12  # most texts from one module, so that a few large modules do not make up a whole library
SPARE = 1.5  # texts collected per text wanted: near-duplicates are dropped, and some libraries have too few
ALIKE = 0.4  # Jaccard similarity of word pairs from which two texts are near-duplicates
MASK = "LIBRARY"

# Folders and files of tests, vendored copies, generated tables and tools: their docstrings do not describe the library.
SKIPPED = {
    "tests", "test", "testing", "conftest", "setup", "externals", "extern", "vendored", "third_party", "deprecated",
    "benchmarks", "examples", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip",
    "encodings", "pydoc_data", "distutils",
}  # fmt: skip

NAME = r"(?:numpy|scipy|scikit|sklearn|pandas|torch|networkx|sympy|matplotlib|pyplot|pylab|python)"
ALIAS = r"(?:np|pd|nx|plt|mpl|stdlib)"
DOTTED_PATH = re.compile(rf"\b(?:\w*{NAME}\w*|{ALIAS})(?:[./](?!py\b)\w+)*[./](?!py\b)(\w+)(?:\.py\b)?", re.IGNORECASE)
LIBRARY_NAME = re.compile(
    rf"\bscikit[- ]learn\b|\b\w*{NAME}\w*|\b{ALIAS}(?:_\w+)?\b|\bstandard library\b", re.IGNORECASE
)

UNDERLINE = re.compile(r"([=\-~^*#+\"'])\1{2,}$")
TABLE = re.compile(r"[=\-]+( +[=\-]+)+$")
SECTION = re.compile(
    r"(args|arguments|keyword arg\w*|kwargs|params|parameters|returns?|yields?|raises|examples?\b[^.:]*"
    r"|usage|shape|inputs?|outputs?|attributes|references?|see also|author|version)\s*:"
    r"|:\w+[^:`]*:(\s|$)|>>>|```|@\w+|\w+ : ",
    re.IGNORECASE,
)
SIGNATURE = re.compile(r"[\w.]+\([^()]*(\([^()]*\)[^()]*)*\)\s*((->|--|=>)\s*[\w.\[\], ]+?)?\s*([.:;]|--|$)")
DESCRIPTION_HEADINGS = {"explanation", "description"}  # a section with another heading ends the text
# Stock phrases that give a library away: sentences with one of them are removed.
REFERRAL = "sphx_glr_|User Guide|Developing Guide|full documentation|glossary entry"
INSIDE = r"(?:[^.]|\.(?!\s|$))*?"  # matches within one sentence
MARKUP = [
    (re.compile(r"(?:https?://|www\.)[^\s'\">)]+"), ""),
    (re.compile(r"(?<!\w)\[\d+\]_?|\|?\[[\w#*]+\]_"), ""),  # citations and footnotes
    (re.compile(r":[\w:+-]+:`~?[!.]?([^`]+?)(?:\s*<[^`<> ]+>)?`"), r"\1"),  # roles
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`~?\.?([^`]+?)(?:\s*<[^`<> ]+>)?`_{0,2}"), r"\1"),
    (re.compile(r"\*\*(\w(?:[^*]*\w)?)\*\*|(?<![\w*])\*(\w(?:[^*]*\w)?)\*(?![\w*])"), r"\1\2"),
    (re.compile(rf"{INSIDE}\b(?:{REFERRAL}){INSIDE}(?:\.(?=\s|$)|$)"), ""),
    (re.compile(r"\s+(?=[.,;](\s|$))"), ""),  # spaces left by removed citations
]


@dataclass(frozen=True)
class Described:
    """The text of one docstring, and where it is from."""

    label: str
    module: str
    name: str  # dotted, module included
    text: str


def docstring_rows(*, rows: int = 2000, seed: int = 0, libraries: Mapping[str, str] = LIBRARIES) -> Rows:
    """About `rows` docstrings, the same number per library where possible: label = library, group = module.

    The same installed versions and seed give the same rows. Raises DataError on too few rows or libraries.
    """
    folders = {label: folder for label, package in sorted(libraries.items()) if (folder := source_folder(package))}
    if rows < len(folders):
        raise DataError(f"demo: {rows} rows are too few for {len(folders)} labels; ask for {10 * len(folders)} or more")
    wanted = int(SPARE * rows / max(1, len(folders)))
    pool = [found for label, folder in folders.items() for found in collect(label, folder, wanted, seed)]
    random.Random(f"demo pool {seed}").shuffle(pool)  # so that no library is favoured when near-duplicates are dropped
    pool = without_near_duplicates(pool)
    share = shares(Counter(found.label for found in pool), rows)
    if len(share) < FEWEST_LABELS:
        raise DataError(
            f"demo: found docstrings of {sorted(share)} only, but {FEWEST_LABELS} libraries are needed; "
            f"install more of {', '.join(sorted(libraries.keys() - share.keys()))}"
        )
    kept = [found for found, place in zip(pool, places(pool), strict=True) if place < share[found.label]]
    return Rows(
        ids=[f"{found.label}:{found.name}" for found in kept],
        texts=[found.text for found in kept],
        labels=[(found.label,) for found in kept],
        multi=False,
        groups=[f"{found.label}:{found.module}" for found in kept],
    )


def source_folder(package: str) -> Path | None:
    """The folder of a package's source, found without an import; None if not installed. "" is the standard library."""
    if not package:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin and spec.submodule_search_locations else None


def collect(label: str, folder: Path, wanted: int, seed: int) -> list[Described]:
    """`wanted` texts or slightly more from `folder`, or all it has. Files are read in a seeded random order."""
    stream = random.Random(f"demo {label} {seed}")
    files = sorted(source_files(folder))
    stream.shuffle(files)
    prefix = folder.name if (folder / "__init__.py").exists() else ""  # the standard library has no package name
    found: dict[str, Described] = {}  # by name: a module and a function of its package may share one
    for file in files:
        if len(found) >= wanted:
            break
        parts = (prefix, *file.removesuffix(".py").split("/"))
        module = ".".join(part for part in parts if part not in ("", "__init__"))
        texts = [(name, prose(docstring)) for name, docstring in docstrings((folder / file).read_bytes(), module)]
        texts = [(name, text) for name, text in texts if worth_reading(text)]
        stream.shuffle(texts)
        for name, text in texts[:PER_MODULE]:
            found.setdefault(name, Described(label, module, name, text))
    return list(found.values())


def source_files(folder: Path) -> Iterator[str]:
    """The package's own Python files as paths below `folder`, with forward slashes."""
    for where, folders, files in os.walk(folder):
        here = Path(where)
        folders[:] = [name for name in folders if own(name) and (here / name / "__init__.py").exists()]
        for file in files:
            if file.endswith(".py") and file.removesuffix(".py") not in SKIPPED:
                yield (here / file).relative_to(folder).as_posix()


def own(folder: str) -> bool:
    """Whether a folder of this name holds public code. The only private one that does is numpy's `_core`."""
    return folder not in SKIPPED and (folder == "_core" or not folder.startswith("_"))


def docstrings(source: bytes | str, module: str) -> list[tuple[str, str]]:
    """(dotted name, docstring) of the module and of its public classes, functions and methods, in the file's order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in their code
            tree = ast.parse(source)
    except SyntaxError:  # written for a newer Python
        return []
    named: dict[str, str] = {}  # a property's getter and setter share a name: keep the first
    for name, docstring in described(tree, module):
        named.setdefault(name, docstring)
    return list(named.items())


def described(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    """(name, docstring) of the node, then of public definitions inside it. Functions are not searched inside."""
    if docstring := ast.get_docstring(node):
        yield name, docstring
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from described(child, f"{name}.{child.name}")


def prose(docstring: str) -> str:
    """The summary and description as plain masked text on one line, in whole paragraphs up to `LONGEST` characters."""
    text = ""
    for paragraph in " ".join(line.strip() or "\n" for line in described_lines(docstring)).split("\n"):
        longer = f"{text} {masked(plain(paragraph))}".strip()
        if len(longer) > LONGEST:
            break
        text = longer
    if text.endswith(":"):  # the last sentence announces a block that is left out
        ends = [end.start() + 1 for end in re.finditer(r"\.(?= [A-Z])", text)]
        return text[: ends[-1]] if ends else ""
    return text


def described_lines(docstring: str) -> Iterator[str]:
    """The docstring's lines up to its first section, without titles, signatures, directives and literal blocks."""
    lines, kept, block = docstring.splitlines(), False, None
    if lines and (signature := SIGNATURE.match(lines[0])):
        lines[0] = lines[0][signature.end() :].strip()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if block is not None and (not bare or indent > block):
            if not bare:
                yield ""
            continue
        block = None
        if UNDERLINE.match(following.strip()) and bare and not UNDERLINE.match(bare):
            if kept and bare.lower() not in DESCRIPTION_HEADINGS:
                return
            continue
        if SECTION.match(bare) or TABLE.match(bare):
            return
        if bare.startswith(".. ") or bare == "::":
            block = indent
        elif not UNDERLINE.match(bare) and not bare.startswith(("|", "+-", "+=")):
            block = indent if bare.endswith("::") else None
            kept = kept or bool(bare)
            yield bare.removesuffix(":") if bare.endswith("::") else bare


def plain(text: str) -> str:
    """The text without reStructuredText markup, single-spaced."""
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def masked(text: str) -> str:
    """The text with library names and aliases as `MASK`. A dotted path into a library keeps its last part only."""
    return LIBRARY_NAME.sub(MASK, DOTTED_PATH.sub(r"\1", text))


def worth_reading(text: str) -> bool:
    """Whether a text is long enough, mostly words, and a description rather than a notice or a template."""
    letters = sum(character.isalpha() or character == " " for character in text)
    notice = re.search(r"deprecated|copyright|license|%\(|\{\w+_\w+\}", text, re.IGNORECASE)
    return len(text) >= SHORTEST and letters >= 0.85 * len(text) and not notice


def without_near_duplicates(pool: Iterable[Described]) -> list[Described]:
    """The pool without texts that share their first sentence or many word pairs with an earlier one."""
    kept: list[Described] = []
    sizes: list[int] = []
    begun: set[str] = set()
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)  # word pair -> places in `kept`
    for found in pool:
        words = re.findall(r"[a-z]+", found.text.lower())
        sentence = " ".join(re.findall(r"[a-z]+", re.split(r"[.:;] ", found.text.lower())[0]))
        pairs = set(pairwise(words))
        shared = Counter(place for pair in pairs for place in holders[pair])
        alike = any(both >= ALIKE * (len(pairs) + sizes[place] - both) for place, both in shared.items())
        if alike or sentence in begun:
            continue
        begun.add(sentence)
        for pair in pairs:
            holders[pair].append(len(kept))
        kept.append(found)
        sizes.append(len(pairs))
    return kept


def shares(available: Mapping[str, int], rows: int) -> dict[str, int]:
    """Rows per label: equal shares of `rows`; a label with fewer texts gives all, and larger ones make up for it."""
    share: dict[str, int] = {}
    for left, label in zip(
        range(len(available), 0, -1), sorted(available, key=lambda name: (available[name], name)), strict=True
    ):
        share[label] = min(available[label], (rows - sum(share.values())) // left)
    return share


def places(pool: Iterable[Described]) -> Iterator[int]:
    """For each text, how many of its label came before it."""
    seen: Counter[str] = Counter()
    for found in pool:
        yield seen[found.label]
        seen[found.label] += 1
