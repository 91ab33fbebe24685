"""Run what is missing of the speed benchmark: experiments/*.toml -> results/TASK.MODEL.ROWS.json and results/summary.json.

    python bench/speed/run.py --data ../shared/data [--only embedding-training] [--rounds 5] [--groups N] [--out DIR] [--toy]

Ours and the peers run in one process, alternated, on the same rows, weights, precision and LoRA; a figure is a median
over rounds. A case whose result is there is not run again: delete the file to have it repeated. Nothing else should run
on the machine meanwhile. With --toy everything is small and made up, which shows that the code runs and nothing else.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ours
import peers
import torch
import trainers
from machine import SIZES, about, peak_flops
from models import CPU, LORA, flops, folder_of, tokenizer_of
from rounds import Contender, compare
from rows import Slice, cut, questions_to_learn, read
from scale import scale, startup
from table import bars, experiments, name_of
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from lasttoken.labels import LabelSpace

HERE = Path(__file__).parent
TOY: dict[str, Any] = {"model": "toy", "groups": 1, "size": 4, "least": 4}
TOY_WAYS = {
    "embedding-training": ["nf4 8", "native 8 grouped"],
    "instruction-training": ["nf4 8"],
}  # TRL takes its time
TOY_SCALE = {"sizes": [40, 80], "repeats": [1, 1]}
NEEDED = {"instruction-training": "trl", "probe": "sentence_transformers"}  # without it, the task has no peer


def ways(words: list[str]) -> list[trainers.Way]:
    """ "native 32 grouped" as (precision, rows an update, whether the rows are grouped by length)."""
    found = []
    for one in words:
        precision, batch, *rest = one.split()
        if rest not in ([], ["grouped"]):
            raise SystemExit(f"{one!r}: what follows the batch can only be 'grouped'")
        found.append(("none" if precision == "native" else precision, int(batch), bool(rest)))
    return found


def our_ways(words: list[str]) -> list[ours.OurWay]:
    """ "native 32" as (precision, rows an update)."""
    if grouped := [one for one in words if one.endswith("grouped")]:
        raise SystemExit(f"{grouped[0]!r}: ours packs rows and does not group them")
    return [(precision, batch) for precision, batch, _ in ways(words)]


def embedding_training(case: dict[str, Any], part: Slice, folder: Path, work: Path) -> list[Contender]:
    """A head on packed rows against HF Trainer."""
    least = case.get("least", part.size)
    found = ours.embedding_training(folder, part, our_ways(case["ours"]), least)
    head = torch.randn(len(part.data.labels), AutoConfig.from_pretrained(folder).hidden_size) * 0.02
    return found + trainers.hf_trainer(folder, part, head, ways(case["peers"]), work, least)


def embedding_inference(case: dict[str, Any], part: Slice, folder: Path, work: Path) -> list[Contender]:
    """predict_proba against the pipeline and a sorted loop."""
    model = ours.embedding_model(folder, part)
    head: Any = model.head.layers
    least = case.get("least", part.size)
    return [
        ours.merged_prediction(model, part),
        *peers.classification(folder, part, head.weight, case["peers"], least),
    ]


def instruction_training(case: dict[str, Any], part: Slice, folder: Path, work: Path) -> list[Contender]:
    """Loss on the label against TRL."""
    least = case.get("least", part.size)
    found = ours.instruction_training(folder, part, our_ways(case["ours"]), least)
    return found + (trainers.trl(folder, part, ways(case["peers"]), work, least) if find_spec("trl") else [])


def instruction_scoring(case: dict[str, Any], part: Slice, folder: Path, work: Path) -> list[Contender]:
    """Every label scored against generation."""
    own = ours.merged_prediction(ours.instruction_model(folder, part.data.labels), part)
    return [own, *peers.generation(folder, part, case["peers"], case.get("least", part.size))]


def label_count(case: dict[str, Any], part: Slice, folder: Path, work: Path) -> list[Contender]:
    """77 labels to a tolerance (ours to be judged) against 4 labels, and 77 to their end, on the same texts by the same weights.

    The model has been trained on other rows of the same set, because what it is sure of need not be followed: untrained, it
    is sure of nothing, and that is not how anyone uses it.
    """
    taught = ours.taught_to_answer(folder, questions_to_learn(case["data"]), epochs=case["epochs"])
    count = len(part.data.labels)
    few = ours.with_labels(taught, LabelSpace(part.data.labels.names[:: -(-count // 4)]))
    exact = replace(taught, config=taught.config.model_copy(update={"tolerance": 0.0}))
    every = [
        ours.prediction(f"lasttoken, {count} labels, to {taught.config.tolerance:g}", taught, part),
        ours.prediction(f"lasttoken, {count} labels, exact", exact, part),
        ours.prediction(f"lasttoken, {len(few.labels)} labels", few, part),
    ]
    return [every[0], replace(every[1], ours=False), replace(every[2], ours=False, tags=("four",))]


def probe(case: dict[str, Any], part: Slice, folder: Path, work: Path) -> list[Contender]:
    """Pooled hidden states against sentence-transformers."""
    found = [ours.features(folder, part)]
    if find_spec("sentence_transformers") is None:
        return found
    return found + peers.sentence_transformers(folder, part, case["peers"], case.get("least", part.size))


COMPARISONS: dict[str, Callable[[dict[str, Any], Slice, Path, Path], list[Contender]]] = {
    "embedding-training": embedding_training,
    "embedding-inference": embedding_inference,
    "instruction-training": instruction_training,
    "instruction-scoring": instruction_scoring,
    "label-count": label_count,
    "probe": probe,
}


def run(case: dict[str, Any], rounds: int, work: Path) -> dict[str, Any]:
    """One result."""

    def note(sentence: str) -> None:
        print("   ", sentence[:400], flush=True)

    if case["task"] == "startup":
        return {**startup(case["repeats"]), **about(CPU)}
    rows = read(case["rows"], case["data"])
    if case["task"] == "scale":
        measured = scale(case["model"], rows, work, sizes=case["sizes"], repeats=case["repeats"], note=note)
        return {**measured, **about(CPU)}
    folder = folder_of(case["model"], work)
    fitting = {name: case[name] for name in ("groups", "limit", "size") if name in case}
    part = cut(rows, tokenizer_of(folder), **fitting)
    contenders = COMPARISONS[case["task"]](case, part, folder, work)
    sizes = [512] if case["model"] == "toy" else SIZES
    measured = compare(contenders, rounds=rounds, peak=lambda: peak_flops(CPU, sizes), note=note)
    described = {
        "rows": {
            "slice": len(part.lengths),
            "tokens_a_row": round(float(part.lengths.mean()), 1),
            "longest": int(part.lengths.max()),
            "pool": part.pool,
            "pool_tokens_a_row": round(part.pool_tokens, 1),
            "labels": len(part.data.labels),
        },
        "lora": LORA.model_dump(),
    }
    if "share" in case:
        config = AutoConfig.from_pretrained(folder)
        whole = flops(config, part.lengths, training=case["task"] == "embedding-training", rank=LORA.r)
        described["flops_a_row"] = whole / len(part.lengths)
    return {**described, **measured, **about(CPU)}


def cases(only: list[str], toy: bool, data: Path | None, groups: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings) of every case asked for; with `toy`, a small one of each task; of `groups` of rows at most."""
    found = []
    for experiment in experiments():
        task = experiment["task"]
        for number, case in enumerate(experiment["cases"]):
            settings: dict[str, Any] = {**experiment, **case, "data": data}
            if toy and number:
                continue
            if toy and task == "scale":
                settings |= {"model": "toy", **TOY_SCALE}
            elif toy and task == "startup":
                settings |= {"repeats": 1}
            elif toy:
                settings |= TOY | {"peers": [8]} | ({"epochs": 0.2} if "epochs" in settings else {})
                settings |= {"peers": TOY_WAYS[task], "ours": ["nf4 8"]} if task in TOY_WAYS else {}
            if groups is not None and "groups" in settings:
                settings["groups"] = min(groups, settings["groups"])
            name = name_of(settings)
            if not only or any(name == one or name.startswith(f"{one}.") for one in only):
                found.append((name, settings))
    return found


def write(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="../shared/data; without it, and with --toy only, rows are made up")
    parser.add_argument("--only", default="", help="tasks or cases, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, help="of 32 rows a case at most, for slow machines")
    parser.add_argument("--out", type=Path, help="where results go; results/ beside this file, a new folder with --toy")
    parser.add_argument("--toy", action="store_true", help="small and made up: shows that the code runs")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.toy:
        parser.error("--data: name the folder of the real rows (../shared/data), or add --toy")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the peers among each other
    transformers_logging.set_verbosity_error()
    gc.freeze()  # what was imported stays, and need not be looked through whenever memory is
    if arguments.groups is not None and arguments.out is None and not arguments.toy:
        parser.error("--groups: a result of fewer rows is none of the benchmark; name a folder of its own with --out")
    out = arguments.out or (Path(tempfile.mkdtemp(prefix="speed-toy-")) if arguments.toy else HERE / "results")
    out.mkdir(parents=True, exist_ok=True)
    only = [x for x in arguments.only.split(",") if x]
    for name, case in cases(only, arguments.toy, arguments.data, arguments.groups):
        target = out / f"{name}.json"
        if target.exists():
            continue
        missing = [NEEDED[case["task"]]] if case["task"] in NEEDED and not find_spec(NEEDED[case["task"]]) else []
        if missing and not arguments.toy:
            raise SystemExit(f"{name}: {missing[0]} is not installed; `make bench-speed` does it")
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as work:
            result = {"case": name, "task": case["task"], "rounds": arguments.rounds, "missing_peers": missing}
            write(target, {**result, **run(case, arguments.rounds, Path(work))})
        for bar, value in bars(case, json.loads(target.read_text(encoding="utf-8"))).items():
            print(f"    {bar}: {value['ratio']:.3g} ({value['sense']} {value['bar']:g})", flush=True)
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))}
    every = [bars(case, results[name]) for name, case in cases([], arguments.toy, None) if name in results]
    write(out / "summary.json", {name: value for some in every for name, value in some.items()})
    print(out / "summary.json")


if __name__ == "__main__":
    main()
