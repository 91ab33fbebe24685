"""The forms of a classifier with a head: transformers' layout, PEFT's, and graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lasttoken.errors import ConfigError
from lasttoken.export import graph, hf, intermediate, layout, peft_layout, use
from lasttoken.export.check import Calibrated, test_texts
from lasttoken.export.making import Making
from lasttoken.hierarchy import coherent
from lasttoken.infer.portable import Portable
from lasttoken.runtime.exported import padded
from lasttoken.runtime.peft_model import read_adapter
from lasttoken.runtime.sessions import of_module, open_session, workers_of
from lasttoken.text.batch import by_length

CALIBRATED = 300  # texts that set the ranges of int8 activations
BATCH = 512  # tokens of a batch of these
FILES = {
    "onnx": {"float32": "model.onnx", "int8": "model_int8.onnx"},
    "openvino": {
        "float32": "model.xml",
        "bfloat16": "model.xml",
        "int8": "model_int8.xml",
        "int8-dynamic": "model_int8_dynamic.xml",
    },
}


def write_heads(making: Making, plain: Portable, temperature: float) -> None:
    """Every target of a classifier with a head. temperature: what logits are divided by."""
    targets = making.wanted.targets
    if {"hf", "peft"} & set(targets):
        write_layouts(making, plain, temperature)
    graphs = [target for target in ("onnx", "openvino") if target in targets]
    if graphs:
        write_graphs(making, plain, temperature, graphs)


def write_layouts(making: Making, plain: Portable, temperature: float) -> None:
    """The layouts of transformers and PEFT."""
    source, labels = making.source, making.source.labels
    layer = layout.divided(plain.layers, temperature)
    assert isinstance(layer, nn.Linear)  # `layout.refuse` left no other
    if layer.bias is not None and source.config.method != "encoder":
        making.journal.note("head: its bias is brought into its weights, as transformers' layout has none")
        layer = layout.without_bias(layer, pooled_vectors(plain, test_texts(source.folder, making.wanted.rows)))
    padding = layout.padding_of(plain.tokenizer)

    def write(form: tuple[str, str, str, str], folder: Path, model: Any, how: str) -> None:
        """The tokenizer, and the check of a model as a pipeline has it."""
        hf.write_tokenizer(plain.tokenizer, plain.reading, folder, padding=padding, split=plain.pooling == "last")
        pipe = hf.piping(model, folder)
        session = of_module(pipe.model)
        used = making.model(session, plain, folder, temperature, workers=1)
        files = [path for path in making.part.iterdir() if path.is_file()] if folder == making.part else [folder]
        making.keep(form, piped(pipe, making), source.calibrated(used), files=files, how=how)

    if "hf" in making.wanted.targets:
        making.journal.progress("writing the merged model", 0, 0)
        (precision,) = making.wanted.of("hf", own=plain.precision)
        whole = layout.sequence_classifier(plain, layer, labels)
        hf.write_classifier(whole, making.part, dtype=getattr(torch, precision))
        write(("hf", "transformers", precision, "."), making.part, str(making.part), use.HF)
    if "peft" in making.wanted.targets:
        if source.base is None:
            raise ConfigError(["--to peft: every weight of this run was trained, so there is no adapter; export to hf"])
        settings, folder = source.stored["config"], making.part / "peft"
        folder.mkdir()
        peft_layout.write_adapter(source.folder, layer, source.base, source.stored["base"].get("commit"), folder)
        if Path(source.base).exists():
            making.journal.note(f"peft: the base model is {source.base}; on another machine change adapter_config.json")
        quantize = settings.get("quantize", "none")
        model = read_adapter(folder, labels, padding, quantize)
        how = use.block("python", peft_layout.snippet(labels, padding, quantize))
        write(("peft", "peft", "float32", "peft"), folder, model, how)


def piped(pipe: Any, making: Making) -> Calibrated:
    """A pipeline's probabilities, raised so that no label is less probable than one below it."""
    above, labels = making.source.predictor.policy.rule.above, making.source.labels
    return lambda texts: coherent(hf.piped(pipe, texts, labels), above)


def write_graphs(making: Making, plain: Portable, temperature: float, targets: Sequence[str]) -> None:
    """ONNX and OpenVINO, from one traced graph."""
    making.journal.progress("tracing the graph", 0, 0)
    (making.part / "onnx").mkdir()
    traced = making.part / "onnx" / FILES["onnx"]["float32"]
    graph.write_onnx(replace(plain, layers=layout.divided(plain.layers, temperature)), traced)
    for target in targets:
        folder = making.part / target
        folder.mkdir(exist_ok=True)
        hf.write_tokenizer(plain.tokenizer, plain.reading, folder, padding=None, split=False)
        for precision in making.wanted.of(target, own=plain.precision):
            path = folder / FILES[target][precision]
            making.journal.progress(f"converting to {target}-{precision}", 0, 0)
            if not path.exists():
                CONVERTED[target, precision](traced, path, making, plain)
            session = open_session(target, path, precision)
            used = source_of(making, plain, session, folder, temperature, target)
            form = (f"{target}-{precision}", target, precision, f"{target}/{path.name}")
            making.keep(
                form,
                used,
                used,
                files=[],
                how=use.graph(target, precision, path.name, plain.reading, making.source.labels),
            )
    remove_others(making)


def source_of(
    making: Making, plain: Portable, session: Any, folder: Path, temperature: float, runtime: str
) -> Calibrated:
    """A session's calibrated probabilities."""
    return making.source.calibrated(making.model(session, plain, folder, temperature, workers=workers_of(runtime)))


def with_ranges(traced: Path, path: Path, making: Making, plain: Portable) -> None:
    """OpenVINO's static int8, with the ranges of the run's test texts."""
    encoded = plain.reading(plain.tokenizer, test_texts(making.source.folder, CALIBRATED))
    batches = [padded(encoded, rows, 0) for rows in by_length(encoded.lengths, BATCH)]
    intermediate.quantize_static(traced, path, batches)


CONVERTED: dict[tuple[str, str], Callable[[Path, Path, Making, Portable], None]] = {
    ("onnx", "int8"): lambda traced, path, *_: graph.quantize_onnx(traced, path),
    ("openvino", "float32"): lambda traced, path, *_: intermediate.write_openvino(traced, path),
    ("openvino", "bfloat16"): lambda traced, path, *_: intermediate.write_openvino(traced, path),
    ("openvino", "int8"): with_ranges,
    ("openvino", "int8-dynamic"): lambda traced, path, *_: intermediate.quantize_weights(traced, path),
}


def remove_others(making: Making) -> None:
    """Remove the graphs of forms that were left out, or were only on the way to others, and folders without a graph."""
    kept = {making.part / form.file for form in making.forms}
    kept |= {path.with_name(f"{path.name}.data") for path in kept} | {path.with_suffix(".bin") for path in kept}
    for folder in (making.part / "onnx", making.part / "openvino"):
        graphs = [path for path in folder.glob("*") if path.suffix in (".onnx", ".data", ".xml", ".bin")]
        for path in set(graphs) - kept:
            path.unlink()
        if folder.is_dir() and not set(graphs) & kept:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


@torch.inference_mode()
def pooled_vectors(plain: Portable, texts: Sequence[str]) -> torch.Tensor:
    """Inputs (N, H) of the head for some texts."""
    encoded = plain.reading(plain.tokenizer, texts)
    batches: list[tuple[np.ndarray, np.ndarray]] = [
        padded(encoded, rows, 0) for rows in by_length(encoded.lengths, BATCH)
    ]
    return torch.cat([plain.pooled(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in batches])
