"""`lasttoken plan`: does it fit, and how long does it take? Asked before anything but the model's config is downloaded."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ConfigError
from lasttoken.report.units import data_size, duration, size

if TYPE_CHECKING:
    from lasttoken.config import Run
    from lasttoken.plan.advice import Advice
    from lasttoken.plan.forecast import Forecast

PHASES = {
    "head": "fitting the head alone",
    "training": "in training",
    "step": "in the optimiser's step",
    "validation": "while predicting validation rows",
    "merged": "once the adapter is merged",
    "prediction": "while predicting",
}


def plan(
    source: Annotated[str | None, typer.Argument(help="File or hub:owner/name[:config]; or give --rows")] = None,
    method: Annotated[str, typer.Option("--method", help="embedding, instruction, encoder or probe")] = "embedding",
    text: o.Text = "text",
    label: o.Label = "label",
    data: Annotated[str | None, typer.Option("--data", help="The same as SOURCE")] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Rows there will be, in the place of data")] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Of a row on average, with --rows")] = 256,
    classes: Annotated[int, typer.Option("--classes", min=2, help="Labels there will be, with --rows")] = 2,
    gpu: Annotated[str | None, typer.Option("--gpu", help="A card, 4090, or its memory, 24GB; default: here")] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of an hour, to have the cost")] = None,
    model: o.Model = None,
    quantize: o.Quantize = None,
    separator: o.Separator = None,
    template: o.Template = None,
    id: o.Id = None,
    group: o.Group = None,
    split: o.Split = None,
    valid: o.Valid = None,
    test: o.Test = None,
    encoding: o.Encoding = "utf-8",
    drop_empty: o.DropEmpty = False,
    hierarchy: o.HierarchyOf = None,
    seed: o.Seed = 0,
    checkpointing: o.Checkpointing = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Tell whether a training fits a device, how long it takes, and what it costs."""
    named = given(source, data, rows)
    o.check_there(named, valid, test)
    values = o.data_values(
        named or "",
        text,
        label,
        separator=separator,
        template=template,
        id=id,
        group=group,
        split=split,
        valid=valid,
        test=test,
        encoding=encoding,
        drop_empty=drop_empty,
        hierarchy=hierarchy,
    )
    if method == "linear":
        raise ConfigError(["--method linear: it trains in seconds on a CPU; there is nothing to plan"])
    config = o.run_config(
        method,
        values,
        model=model,
        quantize=quantize,
        seed=seed,
        device="auto",
        settings=settings or [],
        checkpointing=checkpointing,
    )
    found, advice = foretell(config, gpu, None if rows is None else (rows, tokens, classes))
    told = {k: v for k, v in values.items() if v and k not in ("source", "text", "label", "encoding", "drop_empty")}
    words = ["lasttoken", "train", named or "DATA.csv", "--text", text, "--label", label, "--method", method]
    words += ["--encoding", encoding] if encoding != "utf-8" else []
    words += ["--drop-empty"] if drop_empty else []
    words += [part for name, value in told.items() for part in (f"--{name}", str(value))]
    words += ["--model", found.model] if model else []
    options = {"quantize": quantize, "train.checkpointing": checkpointing}
    command = ready(words, options, settings or [], advice.settings if advice else {}, seed)
    if as_json:
        fitting = None if advice is None else {**asdict(advice), "command": command if advice.settings else None}
        costs = {name: cost_of(seconds, price) for name, seconds in found.cards.items()}
        whole = {
            **asdict(found),
            "cost": cost_of(found.seconds, price),
            "costs": costs,
            "advice": fitting,
            "command": command,
        }
        typer.echo(json.dumps(whole, allow_nan=False))
        return
    typer.echo(page(found, price))
    typer.echo(verdict(found, advice))
    if found.fits or (advice and advice.settings):
        from lasttoken.cli.screen import say

        say(f"next: {command}")


def given(source: str | None, data: str | None, rows: int | None) -> str | None:
    """The source of rows, None where only their number is given. Raises ConfigError where neither or both are."""
    if source and data and source != data:
        raise ConfigError([f"data is named twice, as {source!r} and as --data {data!r}; name it once"])
    named = source or data
    if (named is None) == (rows is None):
        problem = "neither data nor --rows is given" if rows is None else "both data and --rows are given"
        raise ConfigError([f"{problem}; name a file, or say how much there will be: --rows 10000 --tokens 200"])
    return named


def cost_of(seconds: float | None, price: float | None) -> float | None:
    """What they cost, in the money of `price` an hour; None where one of the two is not known."""
    return None if price is None or seconds is None else price * seconds / 3600


def foretell(run: Run, gpu: str | None, supposed: tuple[int, int, int] | None) -> tuple[Forecast, Advice | None]:
    """The forecast of a run, and where it does not fit what would make it."""
    import torch

    from lasttoken.plan.cards import Card, find_card, this_machine

    named = None if gpu is None else find_card(gpu)  # before what takes seconds to import

    from lasttoken.cli.screen import Screen
    from lasttoken.experiment import load_data
    from lasttoken.model.backbone import load_config
    from lasttoken.model.device import choose_device
    from lasttoken.plan.advice import advise
    from lasttoken.plan.forecast import forecast
    from lasttoken.plan.rows import count, suppose, tokenizer_here
    from lasttoken.plan.skeleton import Method

    config: Any = run.method
    card = named or this_machine(choose_device(run.device))
    model = load_config(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    tokenizer = tokenizer_here(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    if supposed:
        shares = {"valid_share": run.data.valid_share, "test_share": run.data.test_share}
        rows = suppose(*supposed, **shares)
    else:
        with Screen() as screen:
            splits = load_data(run.data, seed=run.seed, journal=screen.journal("plan"))
        rows = count(splits, tokenizer, special=config.method != "instruction")

    def foresee(changed: Method, where: Card) -> Forecast:
        return forecast(changed, model, tokenizer, rows, where, seed=run.seed)

    with torch.random.fork_rng(devices=[]):
        found = foresee(config, card)
        return found, None if found.fits else advise(config, card, foresee)


def page(found: Forecast, price: float | None) -> str:
    """Everything but the verdict, for a terminal."""
    bits = ", its linear layers in 4-bit NF4" if found.quantize == "nf4" else ""
    trained = f"{size(found.trainable)} of them train" if found.trainable else "none of them trains"
    tokens = f"{found.micro_tokens:,} tokens, the fullest micro-batch"
    tokens += "" if found.lengths_known else " if rows fill max_length"
    again = "; computed again in the backward pass" if found.checkpointing else ""
    weights = "float32" if found.method == "encoder" else found.dtype + bits
    remarks = {"weights": weights, "activations": tokens + again, "temporaries": "at most, in either pass"}
    rows = [("parameters", size(found.parameters), trained)]
    rows += [(name, data_size(value), remarks.get(name, "")) for name, value in found.parts.items()]
    rows += [("peak", data_size(found.peak), PHASES[max(found.phases, key=lambda phase: found.phases[phase])])]
    rows += [("on disk", data_size(found.disk), "states of the frozen trunk, in the cache")] if found.disk else []
    lines = [f"{found.model}, {found.method}, on {found.device} ({data_size(found.memory)})"]
    lines += [f"  {name:<20} {value:>9}  {remark}".rstrip() for name, value, remark in rows]
    lines += [f"data: {found.rows:,} rows to train on, {size(found.epoch_tokens)} tokens an epoch ({found.counted})"]
    return "\n".join([*lines, *times(found, price)])


def times(found: Forecast, price: float | None) -> list[str]:
    """The lines about time and cost; where only an amount of memory is known, those of the cards that have it."""
    if found.seconds is None or found.epoch_seconds is None or found.rate is None:
        if not found.cards:
            memory = data_size(found.memory)
            return [f"time: not known, no card of the table has about {memory}; name one (--gpu 4090) to have it"]
        ends = [f"{duration(seconds)} ({name})" for name, seconds in found.cards.items()]
        same = len({duration(seconds) for seconds in found.cards.values()}) == 1
        each = duration(next(iter(found.cards.values()))) if same else " to ".join(ends) + ", by the card"
        share = f"{found.share:.0%} of its peak".replace("%", " %")
        lines = [f"time: about {each}; name your card (--gpu {next(iter(found.cards))!r}); assuming {share}"]
        spent = " to ".join(f"{cost_of(seconds, price):.2f}" for seconds in found.cards.values()) if price else ""
        return [*lines, f"cost: {spent} at {price:g} an hour"] if price else lines
    line = f"time: about {duration(found.seconds)}, {assumed(found)}"
    if found.trainable:
        epochs = f"{found.epochs:g} epochs of {duration(found.epoch_seconds)}"
        line = f"time: about {duration(found.seconds)}, {epochs}, {assumed(found)}; early stopping may end it sooner"
    elif found.method == "probe":
        line += "; the regression on top comes to that"
    return [line, f"cost: {cost_of(found.seconds, price):.2f} at {price:g} an hour"] if price else [line]


def assumed(found: Forecast) -> str:
    """The rate that times stand on, in words."""
    rate = 0.0 if found.rate is None else found.rate
    return f"assuming {rate / 1e12:.3g} TFLOP/s, {found.share:.0%} of the peak".replace("%", " %")


def verdict(found: Forecast, advice: Advice | None) -> str:
    """One line: does it fit, and if not, what does."""
    line = f"{data_size(found.peak)} of the {data_size(found.free)} that can be used"
    if advice is None:
        return f"{'fits' if found.fits else 'does not fit'}: {line}"
    if advice.forecast is not None:
        told = ", ".join(f"{name}={value}" for name, value in advice.settings.items())
        return f"does not fit: {line}; with {told} it does: {data_size(advice.forecast.peak)}"
    if advice.cards:
        return f"does not fit: {line}, with no setting; the smallest that it fits: {' or '.join(advice.cards)}"
    return f"does not fit: {line}, nor any card known here; take a smaller model"


def ready(
    words: list[str], options: dict[str, str | None], settings: list[str], changes: dict[str, Any], seed: int
) -> str:
    """The command line of the training, with what makes it fit. options: of settings that have one, as they were given."""
    for name, value in options.items():
        if chosen := changes.get(name, value):
            words = [*words, f"--{name.rpartition('.')[2]}", str(chosen)]
    words = [*words, *(["--seed", str(seed)] if seed else [])]
    for assigned in [*settings, *(f"method.{k}={v}" for k, v in changes.items() if k not in options)]:
        words += ["--set", assigned]
    return shlex.join(words)
