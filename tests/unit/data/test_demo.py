"""The demo's rows: what is taken from a source file, what is masked, what counts as the same text."""

from collections import Counter
from pathlib import Path

import pytest

from lasttoken.data.demo import (
    LIBRARIES,
    Described,
    collect,
    docstring_rows,
    docstrings,
    masked,
    prose,
    shares,
    source_files,
    without_near_duplicates,
)
from lasttoken.errors import DataError

SOURCE = '''
"""Tools for trees."""

def prune(tree):
    """Cut what is dead."""
    def inside():
        """Never seen."""

def _hidden():
    """Never seen."""

class Tree:
    """A tree."""

    @property
    def height(self):
        """Metres above ground."""

    @height.setter
    def height(self, metres):
        """Grow at once."""

    async def fall(self):
        """Wait for the end."""

    def __len__(self):
        """Never seen."""

    def silent(self):
        return 1
'''


def test_docstrings_are_those_of_what_is_public() -> None:
    assert docstrings(SOURCE, "forest.trees") == [
        ("forest.trees", "Tools for trees."),
        ("forest.trees.prune", "Cut what is dead."),
        ("forest.trees.Tree", "A tree."),
        ("forest.trees.Tree.height", "Metres above ground."),
        ("forest.trees.Tree.fall", "Wait for the end."),
    ]


def test_a_file_for_a_later_python_has_no_docstrings() -> None:
    assert docstrings("def f(:\n    pass", "m") == []


def test_another_files_invalid_escape_does_not_warn() -> None:
    assert docstrings('"""A \\d digit."""', "m") == [("m", "A \\d digit.")]


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("Sort rows.\n\nStable, in place.\n\nParameters\n----------\nx : array", "Sort rows. Stable, in place."),
        ("Solve it.\n\nExplanation\n===========\n\nBy halving.\n\nExamples\n========\n\n1", "Solve it. By halving."),
        ("========\nSplines\n========\n\nThey bend.", "They bend."),
        ("Add one.\n\nArgs:\n    x: a number", "Add one."),
        ("Add one.\n\n:param x: a number", "Add one."),
        ("Add one.\n>>> add(1)\n2", "Add one."),
        ("Add one.\n\n===== =====\nin    out\n===== =====", "Add one."),
        ("Draw.\n\nExample (for one pen):\n    pen.draw()", "Draw."),
        ("encode(text[, errors]) -> bytes\n\nTurn to bytes.", "Turn to bytes."),
        ("Old.\n\n.. versionadded:: 1.2\n   It came late.\n\nStill here.", "Old. Still here."),
        ("Call it. Do so::\n\n    f(1)\n\n    f(2)\n\nThen stop.", "Call it. Do so: Then stop."),
        ("Call it. Do so::\n\n    f(1)", "Call it."),
        ("Of :math:`k < n` see :func:`~scipy.fft.fft` and `norms <norm_page>`_ [1]_.", "Of k < n see fft and norms."),
        ("Fit. Read more in the :ref:`User Guide <x.y>`. Use *all* of ``x``.", "Fit. Use all of x."),
        ("Take *args and **kwargs from https://a.org/b.c now.", "Take *args and **kwargs from now."),
    ],
)
def test_prose_is_the_description_alone(docstring: str, text: str) -> None:
    assert prose(docstring) == text


def test_prose_ends_with_the_last_paragraph_that_fits() -> None:
    assert prose("Short. " * 30 + "\n\n" + "Long. " * 40) == ("Short. " * 30).strip()


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("a NumPy array and a pandas one", "a LIBRARY array and a LIBRARY one"),
        ("np.linalg.norm of torch.Tensor", "norm of Tensor"),
        ("scikit-learn, sklearn, PyTorch, IPython.", "LIBRARY, LIBRARY, LIBRARY, LIBRARY."),
        ("see torch/ao/quantize.py or mpl_toolkits", "see quantize or LIBRARY"),
        ("to_numpy(); plt is from pyplot", "LIBRARY(); LIBRARY is from LIBRARY"),
        ("a DataFrame, an input, a snapshot", "a DataFrame, an input, a snapshot"),
    ],
)
def test_library_names_are_masked(text: str, hidden: str) -> None:
    assert masked(text) == hidden


def test_near_duplicates_leave_the_first() -> None:
    texts = [
        "Return the mean of the values along an axis. Empty slices give nan.",
        "Return the mean of the values along an axis. Something else follows here entirely.",  # the same first sentence
        "Return a mean of the values along an axis. Empty slices give nan.",  # word pairs mostly the same
        "Return the sum of all edges.",
    ]
    pool = [Described("numpy", "m", f"m.f{i}", text) for i, text in enumerate(texts)]
    assert [found.name for found in without_near_duplicates(pool)] == ["m.f0", "m.f3"]


def test_what_a_small_library_lacks_the_others_give() -> None:
    assert shares({"a": 3, "b": 50, "c": 50}, 30) == {"a": 3, "b": 13, "c": 14}
    assert shares({"a": 2, "b": 4}, 30) == {"a": 2, "b": 4}


def test_source_files_leave_out_tests_copies_and_what_is_no_package(tmp_path: Path) -> None:
    kept = ["__init__.py", "_a.py", "sub/__init__.py", "sub/b.py"]
    left_out = [
        "tests/__init__.py",
        "tests/c.py",
        "_vendor/__init__.py",
        "_vendor/d.py",
        "data/e.py",
        "conftest.py",
        "x.txt",
    ]
    for path in kept + left_out:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert sorted(source_files(tmp_path)) == kept


def test_collect_names_texts_after_their_package(tmp_path: Path) -> None:
    folder = tmp_path / "forest"
    folder.mkdir()
    description = (
        "A tree that grows in numpy, slowly and for a long time, until it is as tall as all of the others around."
    )
    (folder / "__init__.py").write_text(
        f'"""{description}"""\n\ndef short():\n    """Too short."""\n', encoding="utf-8"
    )
    assert collect("forest", folder, wanted=5, seed=0) == [
        Described("forest", "forest", "forest", description.replace("numpy", "LIBRARY"))
    ]


def test_rows_of_the_installed_libraries() -> None:
    rows = docstring_rows(rows=120, seed=1)
    assert rows.labels is not None
    assert rows.groups is not None
    counts = Counter(name for (name,) in rows.labels)
    assert len(counts) >= 4
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(rows) == len(set(rows.ids)) == len(rows.groups) == 120
    assert [text for text in rows.texts if not 100 <= len(text) <= 1200] == []
    named = [text for text in rows.texts if any(name in text.lower() for name in (*LIBRARIES, "sklearn", "pytorch"))]
    assert named == []
    assert all(i.startswith(f"{name}:") for i, (name,) in zip(rows.ids, rows.labels, strict=True))
    assert all(i.startswith(group) for i, group in zip(rows.ids, rows.groups, strict=True))


def test_the_same_seed_gives_the_same_rows_and_another_does_not() -> None:
    first, again, other = (docstring_rows(rows=40, seed=seed) for seed in (0, 0, 1))
    assert (first.ids, first.texts, first.labels, first.groups) == (again.ids, again.texts, again.labels, again.groups)
    assert first.ids != other.ids


def test_too_few_libraries_are_a_data_error() -> None:
    with pytest.raises(
        DataError,
        match=r"found docstrings of \['numpy', 'python'\] only, but 4 libraries are needed; install more of absent",
    ):
        docstring_rows(rows=20, libraries={"numpy": "numpy", "python": "", "absent": "no_such_package_here"})


def test_too_few_rows_are_a_data_error() -> None:
    with pytest.raises(DataError, match=r"2 rows are too few for 3 labels; ask for 30 or more"):
        docstring_rows(rows=2, libraries={"numpy": "numpy", "python": "", "torch": "torch"})
