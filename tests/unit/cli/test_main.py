"""The entry point: exit codes, streams, help."""

from __future__ import annotations

import sys

import pytest

from lasttoken.cli import main as entry

VERBS = (
    *("check", "compare", "train", "predict", "export", "push", "serve", "explain", "report"),
    *("runs", "drift", "verify", "plan", "demo"),
)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """call(...) -> (exit code, stdout, stderr) of `lasttoken`."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lasttoken", *words])
        with pytest.raises(SystemExit) as stopped:
            entry.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def test_version(call) -> None:
    assert call("--version") == (0, "0.1.0\n", "")


def test_help_names_every_verb(call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_json_and_explains_each_option(call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert "--json" in out
    options = [
        line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  --") or line.startswith("  -o")
    ]
    assert len(options) >= 3
    assert all(len(words) == 2 for words in options)


def test_nothing_shows_the_help(call) -> None:
    code, out, err = call()
    assert code == 2  # a mistake, though a small one
    assert "Commands:" in out + err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trian",), "No such command 'trian'"),
        (("train",), "missing argument 'source"),
        (("train", "rows.csv"), "Missing option '--method'"),
        (("train", "rows.csv", "--method", "linear", "--sed", "1"), "No such option: --sed"),
        (("train", "rows.csv", "--method", "linear", "--seed", "one"), "'--seed'"),
        (("report",), "missing argument 'runs"),
    ],
)
def test_wrong_words_end_with_2(call, words: tuple[str, ...], said: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert said.lower() in err.lower()  # the case of a name is the parser's own


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the user's mistake is raised, so that Python shows where it came from and ends with 1."""

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(entry, "app", broken)
    with pytest.raises(ZeroDivisionError):
        entry.main()
