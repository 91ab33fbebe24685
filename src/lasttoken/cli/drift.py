"""`lasttoken drift`: whether new texts are still what a run was validated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ArtifactError, DataError

SAYS = {
    "calm": "no change is shown",
    "changed": "the texts have changed a little: label some of them, and test the run on these",
    "worry": "worry: the texts differ from those the run was tested on; label some, test on them, and train again",
}


def drift(
    run: Annotated[Path, typer.Argument(callback=o.path, help="Run folder")],
    source: Annotated[str, typer.Argument(callback=o.path, help="File of new texts: CSV, TSV, JSONL or Parquet")],
    text: Annotated[str | None, typer.Option("--text", help=f"Text column; default: the run's{o.SEVERAL}")] = None,
    rows: Annotated[int, typer.Option("--rows", min=20, help="New rows to look at, drawn at random")] = 2000,
    encoding: o.Encoding = "utf-8",
    quoting: o.Quoting = None,
    seed: o.Seed = 0,
    model: o.Base = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Compare a batch of new texts with the run's validation rows, and say whether to worry.

    Five tests, corrected together: without a change one in twenty batches gives an alarm. Exit 0 whatever is found.
    """
    from lasttoken.record.folder import check_run

    check_run(run)
    o.check_there(source)
    from lasttoken.config.parse import read_run
    from lasttoken.data.load import columns_of
    from lasttoken.data.read import read_rows

    data = read_run(run / "config.toml").data
    if text is not None:
        data = data.model_copy(update={"text": o.listed(text), "template": None})
    from lasttoken.cli.screen import Screen, say
    from lasttoken.evaluation.predictions import read_raw, read_texts
    from lasttoken.predictor import Predictor
    from lasttoken.record.folder import is_export, plain
    from lasttoken.seed import generator
    from lasttoken.watch.drift import FEWEST, Sample, verdict
    from lasttoken.watch.drift import drift as compared

    if is_export(run):
        raise ArtifactError(f"{run} is an export, which keeps no rows; name the run that it was made from")
    valid = run / "predictions" / "valid.parquet"
    known_texts = read_texts(valid) if valid.is_file() else None
    if not known_texts or len(known_texts) < FEWEST:
        raise ArtifactError(f"{run}: keeps fewer than {FEWEST} validation rows to compare with; fit again with more")
    with Screen() as screen, o.naming_options({"text": data.text, "label": data.label}):
        screen.progress("drift", f"reading {source}", 0, 0)
        found = read_rows(
            source,
            columns=columns_of(data, labels=False),
            encoding=encoding,
            quoting=quoting or data.quoting,
            keep_empty=True,
        )
        if len(found) < FEWEST:
            raise DataError(f"{source}: {len(found)} rows are too few to tell a change; give {FEWEST} or more")
        drawn = generator(seed, "rows of drift").permutation(len(found))[:rows].tolist()
        texts = [found.texts[i] for i in drawn]
        predictor = Predictor.load(run, device=device, model=model)
        screen.progress("drift", "labelling", 0, 0)
        answers = predictor(texts, screen.journal("drift"))
        probs, decisions = predictor.policy(read_raw(valid), predictor.labels.multi)
        vocabulary = read_texts(run / "predictions" / "test.parquet") or known_texts
        tests = compared(
            Sample(known_texts, probs, decisions),
            Sample(texts, answers.probs, answers.decisions),
            vocabulary,
            predictor.labels.names,
            seed=seed,
        )
    level = verdict(tests)
    if as_json:
        listed = [plain({**vars(one), "level": one.level}) for one in tests]
        typer.echo(json.dumps({"verdict": level, "rows": len(texts), "tests": listed}, allow_nan=False))
    else:
        for one in tests:
            typer.echo(f"{one.level:<8} {one.told}  (p {one.p:.3g}, effect {one.effect:.2f})")
    say(f"{SAYS[level]} ({len(texts):,} new rows beside {len(known_texts):,} validation rows)")
