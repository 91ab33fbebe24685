"""OpenVINO's intermediate representation, from the ONNX graph: float (computed in float32 or bfloat16) and int8 by NNCF."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np

from lasttoken.export.graph import silence


def write_openvino(graph: Path, path: Path) -> None:
    """The graph as model.xml and model.bin, weights in float32."""
    import openvino

    openvino.save_model(openvino.Core().read_model(str(graph)), str(path), compress_to_fp16=False)


def quantize_static(graph: Path, path: Path, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Weights and activations in int8, ranges of the activations from `batches` of (ids, mask)."""
    import nncf
    import openvino

    with silence(), without_bars():
        data = nncf.Dataset([{"input_ids": ids, "attention_mask": mask} for ids, mask in batches])
        model = nncf.quantize(
            openvino.Core().read_model(str(graph)),
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
        openvino.save_model(model, str(path), compress_to_fp16=False)


def quantize_weights(graph: Path, path: Path) -> None:
    """Weights in int8; the runtime brings activations to int8 in groups, each with a scale of its own."""
    import nncf
    import openvino

    with silence(), without_bars():
        model = nncf.compress_weights(openvino.Core().read_model(str(graph)), mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(model, str(path), compress_to_fp16=False)


@contextmanager
def without_bars() -> Iterator[None]:
    """Leave out NNCF's progress bars, which it prints on standard output."""
    with redirect_stdout(io.StringIO()):
        yield
