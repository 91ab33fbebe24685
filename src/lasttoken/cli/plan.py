"""`lasttoken plan`: does it fit, and how long does it take? Asked before anything but the model's config is downloaded."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.cli import options as o
from lasttoken.config.settings import epochs_of
from lasttoken.errors import ConfigError
from lasttoken.wording import data_size, duration, size

if TYPE_CHECKING:
    from lasttoken.config.run import Run
    from lasttoken.plan.cards import Card
    from lasttoken.plan.forecast import Advice, Forecast
    from lasttoken.plan.rows import Rows

PHASES = {
    "head": "fitting the head alone",
    "training": "in training",
    "step": "in the optimiser's step",
    "validation": "while predicting validation rows",
    "prediction": "while predicting",
}


@o.takes_data(without=("folds",))
def plan(
    source: Annotated[
        str | None, typer.Argument(callback=o.path, help="File or hub:owner/name[:config]; or give --rows")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="embedding, instruction, encoder or probe")] = "embedding",
    *,
    data: dict[str, Any],
    also: Annotated[str | None, typer.Option("--data", callback=o.path, help="The same as SOURCE")] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Rows there will be, in the place of data")] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Of a row on average, with --rows")] = 256,
    classes: Annotated[int, typer.Option("--classes", min=2, help="Labels there will be, with --rows")] = 2,
    gpu: Annotated[str | None, typer.Option("--gpu", help="A card, 4090, or its memory, 24GB; default: here")] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Such cards, one process on each")] = 1,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Of an hour of one card, to have the cost")
    ] = None,
    model: o.Model = None,
    quantize: o.Quantize = None,
    seed: o.Seed = 0,
    checkpointing: o.Checkpointing = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Tell whether a training fits a device, how long it takes, and what it costs."""
    from lasttoken.plan.cards import find_card, known_cards, this_machine
    from lasttoken.plan.forecast import advise, forecast
    from lasttoken.plan.model_shape import load_shape

    named, given = one_source(source, also, rows), settings or []
    o.check_there(named, data.get("valid"), data.get("test"))
    price = price and gpus * price  # of all cards
    table, chosen = (
        {"source": named or "", **data},
        {"model": model, "quantize": quantize, "checkpointing": checkpointing},
    )
    run = o.run_config(method, table, seed=seed, device="auto", settings=given, **chosen)
    if rows is None:
        o.check_first(run.data)
    config: Any = run.method
    card, footprint = this_machine(run.device) if gpu is None else find_card(gpu), config.footprint()
    if gpus > 1 and card.kind != "cuda":
        raise ConfigError([f"--gpus: this machine has no {gpus} GPUs; name a card of those there will be: --gpu 4090"])
    card = replace(card, count=gpus)
    shape = load_shape(footprint.model, revision=footprint.revision)
    read = rows_of(run, None if rows is None else (rows, tokens, classes))
    found = forecast(config, shape, read, card, seed=seed)
    advice = None
    if not found.fits:
        advice = advise(config, card, lambda other, where: forecast(other, shape, read, where, seed=seed))
    alike = known_cards(card.memory, count=gpus) if card.rate is None and card.kind == "cuda" else []
    times = {one.name: forecast(config, shape, read, one, seed=seed).seconds or 0.0 for one in alike}
    words = ["lasttoken", "train", named or "DATA.csv", *o.data_words(data), "--method", method]
    words += ["--gpus", str(gpus)] if gpus > 1 else []
    command = ready(words, chosen, given, advice.settings if advice else {}, seed)
    if as_json:
        told = {
            "model": footprint.model,
            "method": method,
            "device": card.name,
            "gpus": gpus,
            "memory": card.memory,
            "free": card.free,
        }
        told |= {"rows": len(read.parts["train"]), "counted": read.counted, **asdict(found), "cards": times}
        told |= {"cost": cost_of(found.seconds, price), "advice": advice and advice._asdict(), "command": command}
        typer.echo(json.dumps(told, allow_nan=False))
        return
    several = f"{gpus} x " if gpus > 1 else ""
    typer.echo(f"{footprint.model}, {method}, on {several}{card.name} ({data_size(card.memory)}{' each' * (gpus > 1)})")
    typer.echo("\n".join([*page(found, run, read), *time_lines(found, card, times, run, read, price)]))
    typer.echo(verdict(found, card, advice))
    if found.fits or (advice and advice.settings):
        from lasttoken.cli.screen import say

        say(f"next: {command}")


def one_source(source: str | None, data: str | None, rows: int | None) -> str | None:
    """The source of rows, None where only their number is given. Raises ConfigError where neither or both are."""
    if source and data and source != data:
        raise ConfigError([f"data is named twice, as {source!r} and as --data {data!r}; name it once"])
    named = source or data
    if (named is None) == (rows is None):
        problem = "neither data nor --rows is given" if rows is None else "both data and --rows are given"
        raise ConfigError([f"{problem}; name a file, or say how much there will be: --rows 10000 --tokens 200"])
    return named


def rows_of(run: Run, supposed: tuple[int, int, int] | None) -> Rows:
    """The rows of the run's data; or as many as are supposed: (rows, tokens of each, classes)."""
    from lasttoken.cli.screen import Screen
    from lasttoken.data.load import load_data
    from lasttoken.model.files import find_file
    from lasttoken.plan.rows import count, suppose

    if supposed:
        return suppose(*supposed, valid_share=run.data.valid_share, test_share=run.data.test_share)
    with Screen() as screen:
        splits = load_data(run.data, seed=run.seed, journal=screen.journal("plan"))
    config: Any = run.method
    return count(splits, find_file(config.model, config.revision, "tokenizer.json", download=False))


def cost_of(seconds: float | None, price: float | None) -> float | None:
    """What they cost, in the money of `price` an hour; None where one of the two is not known."""
    return None if price is None or seconds is None else price * seconds / 3600


def page(found: Forecast, run: Run, read: Rows) -> list[str]:
    """Parameters, memory and rows, a line each."""
    config: Any = run.method
    trained = f"{size(found.trainable)} of them train" if found.trainable else "none of them trains"
    tokens = f"{found.micro_tokens:,} tokens, the fullest micro-batch" + (
        "" if read.known else " if rows fill max_length"
    )
    again = "; computed again in the backward pass" if found.checkpointing else ""
    nf4 = "linear layers in 4-bit NF4" if getattr(config, "quantize", "none") == "nf4" else ""
    split = "split over the cards but for one block" if getattr(config, "train", None) and config.train.shard else ""
    remarks = {
        "weights": "; ".join(filter(None, (nf4, split))),
        "activations": tokens + again,
        "temporaries": "at most, in either pass",
    }
    rows = [("parameters", size(found.parameters), trained)]
    rows += [(name, data_size(value), remarks.get(name, "")) for name, value in found.parts.items()]
    rows += [("peak", data_size(found.peak), PHASES[max(found.phases, key=lambda phase: found.phases[phase])])]
    lines = [f"  {name:<20} {value:>9}  {remark}".rstrip() for name, value, remark in rows]
    told = f"{len(read.parts['train']):,} rows to train on, {size(found.epoch_tokens)} tokens an epoch ({read.counted})"
    return [*lines, f"data: {told}"]


def time_lines(
    found: Forecast, card: Card, times: dict[str, float], run: Run, read: Rows, price: float | None
) -> list[str]:
    """Time and cost; where only an amount of memory is known, of the fastest and the slowest card that has it."""
    from lasttoken.plan.forecast import UTILISATION

    config: Any = run.method
    share = f"{100 * UTILISATION:.0f} %"
    if found.seconds is not None and found.epoch_seconds is not None:
        line = f"time: about {duration(found.seconds)}"
        if found.trainable:
            plan = config.footprint()
            epochs = epochs_of(plan.epochs, plan.batch, len(read.parts["train"]))
            line += f", {epochs:g} epochs of {duration(found.epoch_seconds)} at most"
        rate = UTILISATION * (card.rate or 0) / 1e12
        spent, line = [found.seconds], f"{line}, assuming {rate:.3g} TFLOP/s, {share} of the peak"
    elif times:
        ends = sorted(times, key=lambda name: times[name])
        spent = [times[ends[0]], times[ends[-1]]]
        line = f"time: about {duration(spent[0])} ({ends[0]}) to {duration(spent[1])} ({ends[-1]}), assuming {share} of the peak"
    else:
        return [f"time: not known, no card of the table has about {data_size(card.memory)}; name one (--gpu 4090)"]
    costs = " to ".join(f"{cost_of(seconds, price):.2f}" for seconds in spent) if price else ""
    return [line, f"cost: {costs} at {price:g} an hour"] if price else [line]


def verdict(found: Forecast, card: Card, advice: Advice | None) -> str:
    """One line: does it fit, and if not, what does."""
    line = f"{data_size(found.peak)} of the {data_size(card.free)} that can be used"
    if advice is None:
        return f"fits: {line}"
    if advice.peak is not None:
        told = ", ".join(f"{name}={value}" for name, value in advice.settings.items())
        return f"does not fit: {line}; with {told} it does: {data_size(advice.peak)}"
    if advice.cards:
        return f"does not fit: {line}, with no setting; the smallest that it fits: {' or '.join(advice.cards)}"
    return f"does not fit: {line}, nor any card known here; take a smaller model"


def ready(
    words: list[str], chosen: dict[str, str | None], given: list[str], changes: dict[str, str | int], seed: int
) -> str:
    """The command line of the training, with what makes it fit. chosen: options as they were given, None where not."""
    changes = {name.removeprefix("train.") if name == "train.checkpointing" else name: v for name, v in changes.items()}
    for name, value in chosen.items():
        if use := changes.pop(name, value):
            words = [*words, f"--{name}", str(use)]
    words = [*words, *(["--seed", str(seed)] if seed else [])]
    for assigned in [*given, *(f"method.{name}={value}" for name, value in changes.items())]:
        words += ["--set", assigned]
    return shlex.join(words)
