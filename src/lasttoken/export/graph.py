"""ONNX: one graph of model, pooling and head, (input_ids, attention_mask) -> logits, of any batch and length."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError
from lasttoken.infer.portable import Portable
from lasttoken.wording import first_line

OPSET = 18
EXAMPLE = 3, 17  # rows and tokens that the graph is traced with; neither is special to any model
NOISY = ("torch.onnx", "onnxscript", "onnx_ir", "root", "nncf", "torch.export")


class Graph(nn.Module):
    """A portable classifier with the inputs of a graph."""

    def __init__(self, portable: Portable):
        super().__init__()
        self.trunk, self.layers = portable.trunk, portable.layers
        self.portable = [portable]  # not a module of its own
        if getattr(self.trunk.config, "use_cache", None) is not None:
            self.trunk.config.use_cache = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.portable[0].logits(input_ids, attention_mask)


def write_onnx(portable: Portable, path: Path) -> None:
    """The graph in float32. Raises ConfigError where torch cannot trace the model."""
    import onnx

    rows, tokens = EXAMPLE
    ids, mask = torch.full((rows, tokens), 5), torch.ones(rows, tokens, dtype=torch.int64)
    mask[1, tokens // 2 :] = 0
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=portable.reading.limit + 64)
    shapes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
    with silence(), torch.no_grad():
        try:
            program = torch.onnx.export(
                Graph(portable).eval(),
                (ids, mask),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                opset_version=OPSET,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
            kind = portable.trunk.config.model_type
            raise ConfigError(
                [f"model: torch cannot trace {kind} into a graph ({first_line(error)}); export to hf"]
            ) from error
        assert program is not None
        program.save(str(path), external_data=large(portable))
    graph = onnx.load(str(path), load_external_data=False)
    forget_origin(graph)
    onnx.save(graph, str(path))
    onnx.checker.check_model(str(path))


def forget_origin(model: Any) -> None:
    """Remove what torch notes of every node, in place: its lines of code, with their paths on this machine."""
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for kind in ("input", "output", "value_info", "initializer"):
            for value in getattr(graph, kind, ()):
                if not isinstance(value, str):
                    del value.metadata_props[:]
                    value.doc_string = ""


def large(portable: Portable) -> bool:
    """Whether the weights exceed what one file of protocol buffers holds, and go into a second one."""
    return sum(p.numel() * p.element_size() for p in portable.trunk.parameters()) > 1.5 * 2**30


def quantize_onnx(source: Path, path: Path) -> None:
    """The graph with matrix products in int8: weights a channel at a time, activations as each batch needs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with silence():
        quantize_dynamic(
            source,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=source.with_name(source.name + ".data").exists(),
        )


@contextmanager
def silence() -> Iterator[None]:
    """Leave out what exporters remark on their own steps."""
    before = {name: logging.getLogger(name).level for name in NOISY}
    try:
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
