"""From a run to a folder that other software runs: each form is written, checked in its own runtime, and named in export.json."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lasttoken.config.exportable import check_targets
from lasttoken.config.forms import Wanted
from lasttoken.config.parse import read_run, to_toml
from lasttoken.config.run import Run
from lasttoken.errors import ArtifactError, ExportRefused
from lasttoken.evaluation.policy import read_policy, write_policy
from lasttoken.evaluation.run_record import read_fact
from lasttoken.export import layout
from lasttoken.export.answers import write_answers
from lasttoken.export.card import card
from lasttoken.export.check import Reference, validation_rows
from lasttoken.export.heads import write_heads
from lasttoken.export.making import Making, Source
from lasttoken.infer.portable import PortableLM
from lasttoken.journal import Journal
from lasttoken.model.cpu_rates import cpu_name
from lasttoken.model.files import locate
from lasttoken.predictor import Predictor
from lasttoken.record.artifact import SETTINGS, read_settings
from lasttoken.record.folder import EXPORT, MANIFEST, digest, is_export, read_json, write_json, write_text, writing
from lasttoken.record.schema import Environment, Export, Metrics, ReadingFacts
from lasttoken.runtime.sessions import check_package

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino", "nncf")}
CONFIG = "config.toml"
LIBRARIES = ("torch", "transformers", "peft", "onnxruntime", "openvino")


def export(run: Path, folder: Path, wanted: Wanted, *, model: str | None = None, journal: Journal) -> Export:
    """Write the forms of a run into a new folder, and what export.json says of them.

    model: another folder of the run's base model. Raises ConfigError where a target cannot express the run, ExportRefused
    where a form does not answer as the run does, ArtifactError where the run is damaged; nothing is then written.
    """
    for target in wanted.targets:
        for package in NEEDS.get(target, ()):
            check_package(package, f"--to {target}")
    if is_export(run):
        raise ArtifactError(f"{run} is an export already; name the run that it was made from")
    source = read_source(run, wanted, model, journal)
    plain = source.predictor.classifier.portable()
    with writing(folder) as part:
        making = Making(source, wanted, part, journal)
        temperature = 1.0
        if isinstance(plain, PortableLM):
            write_answers(making, plain)
        else:
            temperature = layout.temperature_of(source.predictor.policy)
            write_heads(making, plain, temperature)
        if not making.forms:
            raise ExportRefused(f"{run}: no form answers as the run does; accept less with --agreement")
        facts = Export(
            lasttoken=version("lasttoken"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            run=read_fact(run / "metrics.json", Metrics).name,
            digest=digest(run / MANIFEST),
            method=source.config.method,
            model=public(source.stored["config"].get("model")),
            cpu=cpu_name(),
            versions={name: installed for name in LIBRARIES if (installed := installed_version(name))},
            reading=None if isinstance(plain, PortableLM) else ReadingFacts(**plain.reading.to_dict()),
            temperature=temperature,
            padding=layout.padding_or_zero(plain.tokenizer),
            forms=making.forms,
        )
        write_rest(making, facts)
    return facts


def read_source(run: Path, wanted: Wanted, model: str | None, journal: Journal) -> Source:
    """The run, loaded. Raises ConfigError, before that where it can, on what a target does not express."""
    config, _, rest = read_settings(run)
    targets = set(wanted.targets)
    check_targets(config.method, wanted.targets)
    if config.method != "instruction" and {"hf", "peft"} & targets:
        layout.refuse(config, read_policy(run))
    texts, raw = validation_rows(run, wanted.rows)
    journal.progress(f"reading {run}", 0, 0)
    predictor = Predictor.load(run, device="cpu", model=model)
    base = rest.get("base")
    place = None if base is None else locate(model or str(base["name"]))
    policy, classifier = predictor.policy, predictor.classifier
    reference = Reference(
        texts, raw, policy, predictor.labels, lambda some: policy.calibrated(classifier.predict_proba(some).probs)
    )
    return Source(run, predictor, config, read_json(run / SETTINGS), place, reference)


def write_rest(making: Making, facts: Export) -> None:
    """What every export holds beside its forms: settings, policy, card, and export.json. No path of this machine is in it."""
    run, part, source = making.source.folder, making.part, making.source
    config = source.stored["config"]
    config |= {"model": public(config["model"])} if config.get("model") else {}
    write_json(part / SETTINGS, {"config": config, "labels": source.stored["labels"]})
    write_policy(source.predictor.policy, part)
    write_text(part / CONFIG, to_toml(without_folders(read_run(run / CONFIG))))
    made, measures = read_fact(run / "env.json", Environment), read_fact(run / "metrics.json", Metrics)
    write_text(
        part / "README.md",
        card(facts, measures, made, source.labels, source.predictor.policy, list(making.how.values())),
    )
    write_json(part / EXPORT, facts.model_dump())


def public(model: str | None) -> str | None:
    """A model's name: of one in a folder, the folder's own name, for where it lies is nobody else's business."""
    return Path(model).name if model and (Path(model).is_absolute() or Path(model).exists()) else model


def without_folders(config: Run) -> Run:
    """The config with names of files and folders instead of their paths."""
    data: Any = config.data
    paths = {
        name: Path(path).name for name in ("source", "valid", "test", "hierarchy") if (path := getattr(data, name))
    }
    changed: dict[str, Any] = {"data": data.model_copy(update=paths)}
    if model := public(getattr(config.method, "model", None)):
        changed["method"] = config.method.model_copy(update={"model": model})
    return config.model_copy(update=changed)


def installed_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
