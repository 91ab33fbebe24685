"""Running an exported model: (ids, mask) of padded rows -> logits, in ONNX Runtime, OpenVINO or transformers.

A session may be called from several threads at once. A call of ONNX Runtime or OpenVINO computes on one core.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.model.cpu_rates import threads
from lasttoken.wording import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "transformers": "torch"}


class Session(Protocol):
    """A model in a runtime."""

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Logits (B, C) float32 of rows padded on the right: ids (B, L) int64, mask (B, L) int64."""
        ...


def workers_of(runtime: str) -> int:
    """Batches that run side by side: one a core, of torch one alone, whose operations use all cores themselves."""
    return threads() if runtime in ("onnx", "openvino") else 1


def check_package(package: str, what: str) -> None:
    """Raises ConfigError where an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError([f"{what} needs the package {package}: pip install 'lasttoken[export]'"])


def open_session(runtime: str, path: Path, precision: str) -> Session:
    """The model at `path` in that runtime. Raises ConfigError without its package, ArtifactError on a damaged file."""
    if runtime not in SESSIONS:
        raise ArtifactError(f"{path}: the runtime {runtime!r} is not known to this version; update lasttoken")
    check_package(PACKAGES[runtime], f"{path.name} is run by {runtime}, which")
    try:
        return SESSIONS[runtime](path, precision)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: {runtime} cannot read it ({first_line(error)}); export again") from error


def onnx_session(path: Path, precision: str) -> Session:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    told: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # errors below Exception alone

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (told.Fail, told.InvalidGraph, told.InvalidProtobuf, told.NoSuchFile, told.InvalidArgument) as error:
        raise ValueError(str(error)) from error

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found: Any = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        return found

    return run


def openvino_session(path: Path, precision: str) -> Session:
    """OpenVINO on the CPU: a stream a core, and for each an inference request."""
    import openvino

    hint = "bf16" if precision == "bfloat16" else "f32"
    streams = threads()
    settings = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
    if precision == "int8-dynamic":  # activations in groups of 32, each with a scale of its own
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    idle = SimpleQueue[Any]()
    for _ in range(streams):
        idle.put(compiled.create_infer_request())

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        request = idle.get()
        try:
            return np.array(request.infer({"input_ids": ids, "attention_mask": mask})[0])
        finally:
            idle.put(request)

    # OpenVINO's Python layer sets itself up at its first tensor, and two threads that come first hang for good (docs/lab.md)
    one = np.ones((1, 1), dtype=np.int64)
    run(one, one)
    return run


def transformers_session(path: Path, precision: str) -> Session:
    """transformers' own classifier, in the precision of its weights."""
    from transformers import AutoModelForSequenceClassification

    from lasttoken.model.quiet import quiet

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(str(path), dtype="auto").eval()
    return of_module(model)


def of_module(model: Any) -> Session:
    """A torch classifier as a session."""
    import torch

    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return found.logits.float().numpy()

    return run


SESSIONS: dict[str, Callable[[Path, str], Session]] = {
    "onnx": onnx_session,
    "openvino": openvino_session,
    "transformers": transformers_session,
}
