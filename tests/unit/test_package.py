"""The package's face: light to import, complete in its names; the command line answers without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

import lasttoken

HEAVY = [
    "bitsandbytes",
    "datasets",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
]


def loaded(code: str, among: Sequence[str] = tuple(HEAVY)) -> list[str]:
    """The libraries, the heavy ones if none are named, that a fresh interpreter has loaded after `code`."""
    show = f"import sys; print([name for name in {among!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, timeout=60, check=True
    )
    return eval(done.stderr.splitlines()[-1])  # our own print of a list


def test_import_is_light() -> None:
    assert loaded("import lasttoken") == []


def test_help_waits_for_nothing_but_typer_and_the_settings() -> None:
    """Three tenths of a second is what `--help` may take; numpy alone takes half of that, the settings a third."""
    assert loaded("import lasttoken.cli.main", ["numpy", "pyarrow", "typer", "pydantic"]) == ["typer", "pydantic"]


def test_names_that_only_describe_stay_light() -> None:
    names = (
        "Columns, Dataset, Embedding, LabelSpace, METRICS, Predictions, Run, UserError, compare, make_splits, read_rows"
    )
    assert loaded(f"from lasttoken import {names}") == []


def test_what_runs_a_method_loads_no_other() -> None:
    """A comparison of linear models must not wait for peft and transformers."""
    assert not {"peft", "transformers", "bitsandbytes"} & set(
        loaded("import lasttoken.studies.many, lasttoken.cli.compare")
    )


def test_a_method_is_loaded_when_it_is_named() -> None:
    assert "sklearn" in loaded("from lasttoken import LinearClassifier")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["compare", "--help"]])
def test_help_is_light(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['lasttoken', *{words!r}]\n"
        "from lasttoken.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert loaded(code) == []


@pytest.mark.parametrize("name", lasttoken.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(lasttoken, name) is not None


def test_names_are_sorted_and_told_once() -> None:
    constants = [name for name in lasttoken.__all__ if name.isupper()]
    classes = [name for name in lasttoken.__all__ if name[0].isupper() and not name.isupper()]
    functions = [name for name in lasttoken.__all__ if name[0].islower()]
    assert lasttoken.__all__ == [*sorted(constants), *sorted(classes), *sorted(functions)]
    assert dir(lasttoken) == sorted(lasttoken.__all__)
    assert {name for names in lasttoken.HOME.values() for name in names} == set(lasttoken.__all__)


def test_other_names_are_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'lasttoken' has no attribute 'Trainer'"):
        lasttoken.Trainer  # type: ignore[attr-defined]  # noqa: B018


def test_version() -> None:
    assert lasttoken.__version__ == "0.1.0"
