"""`lasttoken explain`: why a text got its label, word by word."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ConfigError, DataError

WAYS = ("auto", "gradients", "removal")


def explain(
    run: Annotated[Path, typer.Argument(callback=o.path, help="Run folder")],
    text: Annotated[str | None, typer.Argument(help="The text, or - for standard input")] = None,
    text_is: Annotated[str | None, typer.Option("--text-is", help="The text itself")] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Label, or several separated by commas; default: the predicted ones")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="gradients, removal (of each word), or auto: gradients if they sum to the log-odds, else removal",
        ),
    ] = "auto",
    steps: Annotated[int, typer.Option("--steps", min=2, help="Steps of integrated gradients")] = 32,
    words: Annotated[
        int, typer.Option("--words", min=1, help="Number of words to show, largest absolute score first")
    ] = 12,
    model: o.Base = None,
    trust_remote_code: o.TrustRemoteCode = False,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Show what each word of a text adds to the log-odds of a label."""
    from lasttoken.record.folder import check_run

    check_run(run)
    if (text is None) == (text_is is None):
        raise ConfigError(["give one text to explain: as it is, - for standard input, or with --text-is"])
    from lasttoken.cli.screen import say
    from lasttoken.explain.explanation import MISSING
    from lasttoken.explain.explanation import explain as explained
    from lasttoken.predictor import Predictor

    if by not in WAYS:
        raise ConfigError([f"--by: {by!r} is not among {', '.join(WAYS)}"])
    given = sys.stdin.read().removesuffix("\n").removesuffix("\r") if text == "-" else f"{text or text_is or ''}"
    if is_file(given):
        meant = f"{o.command('explain', run, '-')} < {shlex.quote(given)}"
        say(f"note: {given!r} is taken as the text itself, not as a file; for a file: {meant}")
    if not given.strip():
        raise DataError("the text is empty; there is nothing to explain")
    predictor = Predictor.load(run, device=device, trust_remote_code=trust_remote_code, model=model)
    answer = predictor([given])
    probs, space = answer.probs, answer.space
    decided = (
        space.decode_sets(answer.decisions)[0] if space.multi else [n for n in space.decode(answer.decisions) if n]
    )
    labels = decided or [space.names[int(probs[0].argmax())]]
    if label:
        labels = [label] if label in space.names else list(o.listed(label))  # a name may hold a comma
    explanations = explained(predictor, given, labels, by=by, steps=steps)  # type: ignore[arg-type]
    chances = dict(zip(space.names, probs[0].tolist(), strict=True))
    if as_json:
        typer.echo(json.dumps([as_dict(one, chances[one.label], decided) for one in explanations]))
    else:
        for one in explanations:
            says = "predicted" if one.label in decided else "not predicted"
            typer.echo(f"{one.label}: probability {chances[one.label]:.3f}, {says}; by {one.by}")
            for word, score in one.strongest(words):
                typer.echo(f"  {score:+.2f}  {word}")
            unread = sum(score != score for score in one.scores)
            if unread:
                say(f"{unread} of {len(one.words)} words were not read: the text was cut at the maximum length")
            if one.gap > MISSING:
                say(f"the scores miss {one.gap:.0%} of the log-odds; try more --steps, or --by removal")
    say("scores are in log-odds: positive words speak for the label, negative ones against it")


def is_file(text: str) -> bool:
    """Whether a text is the name of an existing file with an ending."""
    try:
        return bool(Path(text).suffix) and Path(text).is_file()
    except (OSError, ValueError):  # too long for a file name, or with a null byte
        return False


def as_dict(one: Any, probability: float, decided: Sequence[str]) -> dict[str, Any]:
    """An explanation as a dict for JSON; the score of a word that was not read is None."""
    words = [
        {"word": one.text[a:b], "start": a, "end": b, "score": None if score != score else score}
        for (a, b), score in zip(one.words, one.scores, strict=True)
    ]
    said = {"label": one.label, "probability": probability, "decided": one.label in decided}
    return said | {"by": one.by, "log_odds": one.log_odds, "gap": one.gap, "words": words}
