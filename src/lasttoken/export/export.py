"""From a run to a folder that other software runs: each form is written, checked in its own runtime, and named in export.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer

from lasttoken.config.parse import read_run, to_toml
from lasttoken.config.run import Run
from lasttoken.errors import ArtifactError, ConfigError, ExportRefused
from lasttoken.evaluation.policy import write_policy
from lasttoken.evaluation.run_record import read_fact
from lasttoken.export import adapter, graph, hf, intermediate, layout
from lasttoken.export.card import block, card
from lasttoken.export.check import FLOAT, REQUIRED, Rows, checked, test_texts, validation_rows
from lasttoken.hierarchy import coherent
from lasttoken.infer.portable import Portable, PortableLM
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.model.cpu_rates import cpu_name
from lasttoken.predictor import Predictor
from lasttoken.record.artifact import SETTINGS, read_settings
from lasttoken.record.folder import EXPORT, MANIFEST, digest, is_export, read_json, write_json, write_text, writing
from lasttoken.record.schema import Environment, Export, Form, Metrics, ReadingFacts
from lasttoken.runtime.adapter import read_adapter
from lasttoken.runtime.exported import ExportedModel, padded
from lasttoken.runtime.sessions import check_package, open_session
from lasttoken.text.batch import by_length

FORMS = {  # target -> its precisions, the ones that are made unless others are named first
    "hf": ("bfloat16", "float32"),
    "peft": ("float32",),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8", "int8-dynamic"),
}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino", "nncf")}
CONFIG = "config.toml"
ROWS = 1000  # validation rows that a form is checked on, at most
CALIBRATED = 300  # texts that set the ranges of int8 activations
BATCH = 512  # tokens of a batch of these


@dataclass(frozen=True)
class Wanted:
    """What to make."""

    targets: Sequence[str]
    precisions: Sequence[str] = ()  # empty: those of FORMS
    agreement: float | None = None  # least share of equal decisions; None: FLOAT, or REQUIRED of int8
    rows: int = ROWS

    def of(self, target: str, dtype: torch.dtype) -> list[str]:
        """The precisions of a target. dtype: of the base model's weights. Raises ConfigError on one it does not have."""
        known = FORMS[target]
        if not self.precisions:
            own = "float32" if dtype == torch.float32 else "bfloat16"
            return [own] if target == "hf" else list(known)
        chosen = [one for one in self.precisions if one in known]
        if not chosen:
            raise ConfigError([f"--precision: {target} has {', '.join(known)}"])
        return chosen

    def required(self, precision: str) -> float:
        """The least share of equal decisions."""
        return REQUIRED.get(precision, FLOAT) if self.agreement is None else self.agreement


@dataclass(frozen=True, eq=False)
class Source:
    """The run that is exported."""

    folder: Path
    predictor: Predictor
    config: Any  # of the method
    stored: dict[str, Any]  # method.json
    rows: Rows

    @property
    def labels(self) -> LabelSpace:
        return self.predictor.labels

    def answers(self, texts: Sequence[str]) -> np.ndarray:
        """The run's calibrated probabilities (N, C), computed now."""
        return self.predictor.policy.calibrated(self.predictor.classifier.predict_proba(texts).probs)


@dataclass(eq=False)
class Making:
    """An export that is being written."""

    source: Source
    wanted: Wanted
    part: Path
    journal: Journal
    forms: list[Form] = field(default_factory=list)
    how: list[str] = field(default_factory=list)  # blocks of code for the card

    def check(self, name: str, runtime: str, precision: str, file: str, theirs: Callable[..., np.ndarray]) -> None:
        """Check a form that was written, and keep it. One of several that were not asked for by name may fail, which is told."""
        self.journal.progress(f"checking {name}", 0, 0)
        policy, required = self.source.predictor.policy, self.wanted.required(precision)
        try:
            found = checked(
                name, theirs, self.source.answers, self.source.rows, policy, self.source.labels, required=required
            )
        except ExportRefused as error:
            if self.wanted.precisions or precision == "float32":
                raise
            self.journal.note(f"left out: {error}")
            return
        self.forms.append(Form(name=name, runtime=runtime, precision=precision, file=file, check=found))

    def check_session(self, target: str, precision: str, file: str, plain: Portable, temperature: float) -> None:
        """As `check`, of a file that a session runs."""
        session = open_session(target, self.part / file, precision)
        tokenizer, padding = AutoTokenizer.from_pretrained(str(self.part)), layout.padding_or_zero(plain.tokenizer)
        model = ExportedModel(self.source.labels, plain.reading, tokenizer, session, temperature, padding)
        policy = self.source.predictor.policy
        self.check(
            f"{target}-{precision}",
            target,
            precision,
            file,
            lambda texts: policy.calibrated(model.predict_proba(texts).probs),
        )


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
    journal.progress(f"reading {run}", 0, 0)
    predictor = Predictor.load(run, device="cpu", model=model)
    config = read_settings(run)[0]
    if {"hf", "peft"} & set(wanted.targets) and config.method != "instruction":
        layout.refuse(config, predictor.policy)
    source = Source(run, predictor, config, read_json(run / SETTINGS), validation_rows(run, wanted.rows))
    plain = predictor.classifier.portable()
    with writing(folder) as part:
        making = Making(source, wanted, part, journal)
        if isinstance(plain, PortableLM):
            temperature, padding = 1.0, 0
            write_answers(making, plain)
        else:
            temperature, padding = layout.temperature_of(predictor.policy), layout.padding_or_zero(plain.tokenizer)
            write_heads(making, plain, temperature)
        facts = Export(
            lasttoken=version("lasttoken"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            run=read_fact(run / "metrics.json", Metrics).name,
            digest=digest(run / MANIFEST),
            method=source.stored["config"]["method"],
            model=source.stored["config"].get("model"),
            cpu=cpu_name(),
            reading=None if isinstance(plain, PortableLM) else ReadingFacts(**plain.reading.to_dict()),
            temperature=temperature,
            padding=padding,
            forms=making.forms,
        )
        write_rest(making, facts)
    return facts


def write_heads(making: Making, plain: Portable, temperature: float) -> None:
    """Every target of a classifier with a head."""
    targets, journal = making.wanted.targets, making.journal
    if {"hf", "peft"} & set(targets):
        write_layouts(making, plain, temperature)
    if not {"onnx", "openvino"} & set(targets):
        return
    if "hf" not in targets:
        padding = layout.padding_or_zero(plain.tokenizer)
        hf.write_tokenizer(plain.tokenizer, plain.reading, making.part, padding=padding, split=False)
    calibrated = replace(plain, layers=layout.divided(plain.layers, temperature))
    (making.part / "onnx").mkdir()
    traced = making.part / "onnx" / "model.onnx"
    journal.progress("tracing the graph", 0, 0)
    graph.write_onnx(calibrated, traced)
    own = weights_dtype(making.source)
    if "onnx" in targets:
        for precision in making.wanted.of("onnx", own):
            file = "onnx/model.onnx" if precision == "float32" else "onnx/model_int8.onnx"
            if precision == "int8":
                graph.quantize_onnx(traced, making.part / file)
            making.check_session("onnx", precision, file, plain, temperature)
        making.how.append(ONNX_USE)
    if "openvino" in targets:
        write_openvino(making, plain, traced, temperature)
    remove_others(making)


def remove_others(making: Making) -> None:
    """Remove the graphs of forms that were left out, or were only on the way to others."""
    kept = {form.file for form in making.forms}
    kept |= {f"{file}.data" for file in kept} | {f"{file.removesuffix('.xml')}.bin" for file in kept}
    for folder in (making.part / "onnx", making.part / "openvino"):
        for path in folder.glob("*"):
            if path.relative_to(making.part).as_posix() not in kept:
                path.unlink()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def write_openvino(making: Making, plain: Portable, traced: Path, temperature: float) -> None:
    """OpenVINO's forms, from the traced graph."""
    (making.part / "openvino").mkdir()
    files = {"float32": "model", "bfloat16": "model", "int8": "model_int8", "int8-dynamic": "model_int8_dynamic"}
    for precision in making.wanted.of("openvino", weights_dtype(making.source)):
        file = f"openvino/{files[precision]}.xml"
        making.journal.progress(f"converting to openvino-{precision}", 0, 0)
        if precision == "int8":
            texts = test_texts(making.source.folder, CALIBRATED)
            encoded = plain.reading(plain.tokenizer, texts)
            batches = [padded(encoded, rows, 0) for rows in by_length(encoded.lengths, BATCH)]
            intermediate.quantize_static(traced, making.part / file, batches)
        elif precision == "int8-dynamic":
            intermediate.quantize_weights(traced, making.part / file)
        elif not (making.part / file).exists():
            intermediate.write_openvino(traced, making.part / file)
        making.check_session("openvino", precision, file, plain, temperature)
    making.how.append(OPENVINO_USE)


def write_layouts(making: Making, plain: Portable, temperature: float) -> None:
    """The layouts of transformers and PEFT."""
    source, part, labels = making.source, making.part, making.source.labels
    layer = layout.divided(plain.layers, temperature)
    assert isinstance(layer, nn.Linear)  # `refuse` left no other
    if layer.bias is not None and source.config.method != "encoder":
        making.journal.note("head: its bias is brought into its weights, as transformers' layout has none")
        layer = layout.without_bias(layer, pooled_vectors(plain, test_texts(source.folder, making.wanted.rows)))
    padding, above = layout.padding_of(plain.tokenizer), source.predictor.policy.rule.above
    if "hf" in making.wanted.targets:
        making.journal.progress("writing the merged model", 0, 0)
        (precision,) = making.wanted.of("hf", weights_dtype(source))[:1]
        whole = layout.sequence_classifier(plain, layer, labels)
        hf.write_classifier(whole, part, dtype=getattr(torch, precision))
        hf.write_tokenizer(plain.tokenizer, plain.reading, part, padding=padding, split=plain.pooling == "last")
        pipe = hf.piping(str(part), part)
        making.check("hf", "transformers", precision, ".", lambda texts: coherent(hf.piped(pipe, texts, labels), above))
        making.how.append(HF_USE)
    if "peft" in making.wanted.targets:
        base, quantize = adapter.base_of(source.stored), source.stored["config"].get("quantize", "none")
        into = part if "hf" not in making.wanted.targets else part / "peft"
        into.mkdir(exist_ok=True)
        adapter.write_adapter(source.folder, layer, base, into)
        hf.write_tokenizer(plain.tokenizer, plain.reading, into, padding=padding, split=True)
        loaded = hf.piping(read_adapter(into, labels, padding, quantize), into)
        file = into.relative_to(part).as_posix()
        making.check("peft", "peft", "float32", file, lambda texts: coherent(hf.piped(loaded, texts, labels), above))
        making.how.append(block("python", adapter.snippet(labels, padding, quantize)))


def write_answers(making: Making, plain: PortableLM) -> None:
    """The merged causal LM of an instruction run."""
    if set(making.wanted.targets) != {"hf"}:
        raise ConfigError(
            ["--to: a model that answers in words is exported to hf alone; fit --method embedding for the others"]
        )
    hf.write_answering(plain, making.part)
    from lasttoken.methods.instruction import of_export

    write_json(making.part / SETTINGS, {key: making.source.stored[key] for key in ("config", "labels")})
    model, policy = of_export(making.part), making.source.predictor.policy
    making.check(
        "hf",
        "lasttoken",
        "bfloat16" if plain.model.dtype == torch.bfloat16 else "float32",
        ".",
        lambda texts: policy.calibrated(model.predict_proba(texts).probs),
    )
    (making.part / SETTINGS).unlink()
    tokens = hf.one_token_answers(plain)
    if tokens is not None:
        making.how.append(
            block("bash", f"# each answer is one token\nvllm serve FOLDER --hf-overrides '{overrides(tokens)}'")
        )


def overrides(tokens: Sequence[str]) -> str:
    """vLLM's settings for a causal LM that classifies by its answers' tokens."""
    return json.dumps({"classifier_from_token": list(tokens), "method": "no_post_processing"})


def write_rest(making: Making, facts: Export) -> None:
    """What every export holds beside its forms: settings, policy, card, and export.json."""
    run, part, source = making.source.folder, making.part, making.source
    if not facts.forms:
        raise ExportRefused(f"{run}: no form answers as the run does; accept less with --agreement")
    write_json(part / SETTINGS, {key: source.stored[key] for key in ("config", "labels")})
    write_policy(source.predictor.policy, part)
    write_text(part / CONFIG, to_toml(without_folders(read_run(run / CONFIG))))
    made, measures = read_fact(run / "env.json", Environment), read_fact(run / "metrics.json", Metrics)
    write_text(part / "README.md", card(facts, measures, made, source.labels, source.predictor.policy, making.how))
    write_json(part / EXPORT, facts.model_dump())


def without_folders(config: Run) -> Run:
    """The config with names of data files instead of their paths, which are nobody else's business."""
    data = config.data
    named = {part: Path(path).name for part in ("source", "valid", "test") if (path := getattr(data, part))}
    return config.model_copy(update={"data": data.model_copy(update=named)})


def weights_dtype(source: Source) -> torch.dtype:
    """The precision that the base model's weights are in."""
    backbone: Any = getattr(source.predictor.classifier, "backbone")  # noqa: B009 - what is portable has one
    return next(p.dtype for p in backbone.module.parameters() if p.is_floating_point())


@torch.inference_mode()
def pooled_vectors(plain: Portable, texts: Sequence[str]) -> torch.Tensor:
    """Inputs (N, H) of the head for some texts."""
    encoded = plain.reading(plain.tokenizer, texts)
    found = [padded(encoded, rows, 0) for rows in by_length(encoded.lengths, BATCH)]
    return torch.cat([plain.pooled(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in found])


HF_USE = block(
    "python",
    "from transformers import pipeline",
    "",
    'classify = pipeline("text-classification", model=FOLDER)',
    'print(classify("some text", truncation=True, top_k=None))',
)
ONNX_USE = block(
    "python",
    "import onnxruntime",
    "from transformers import AutoTokenizer",
    "",
    'session = onnxruntime.InferenceSession(f"{FOLDER}/onnx/model.onnx")',
    'given = AutoTokenizer.from_pretrained(FOLDER)(["some text"], truncation=True, padding=True, return_tensors="np")',
    'logits = session.run(["logits"], {name: given[name] for name in ("input_ids", "attention_mask")})[0]',
)
OPENVINO_USE = block(
    "python",
    "import openvino",
    "from transformers import AutoTokenizer",
    "",
    'model = openvino.Core().compile_model(f"{FOLDER}/openvino/model.xml", "CPU")',
    'given = AutoTokenizer.from_pretrained(FOLDER)(["some text"], truncation=True, padding=True, return_tensors="np")',
    'logits = model({name: given[name] for name in ("input_ids", "attention_mask")})[0]',
)
