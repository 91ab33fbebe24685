"""Split weights: each process keeps its share after a pass, and nothing else of the model is split."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from lasttoken.model.layer_taps import blocks_of
from lasttoken.model.layout import lay_out
from lasttoken.model.load import load

dist.init_process_group("gloo")
cpu = torch.device("cpu")
whole, split = (load(sys.argv[1], kind="decoder", device=cpu, quantize=sys.argv[2], processes=n) for n in (1, 2))
ids, layout = torch.arange(5, 25), lay_out([12, 8])
with torch.no_grad():
    assert torch.allclose(split.hidden(ids, layout), whole.hidden(ids, layout), atol=1e-5)
assert split.sharded and not whole.sharded
held = lambda weight: (weight.to_local() if isinstance(weight, dist.tensor.DTensor) else weight).numel()
sizes = [[sum(map(held, part.parameters())) for part in blocks_of(x.module)[1]] for x in (whole, split)]
assert [2 * size for size in sizes[1]] == sizes[0], sizes  # shares, after a pass too
assert held(split.module.get_input_embeddings().weight) == held(whole.module.get_input_embeddings().weight)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_process_keeps_half_of_every_block_after_a_pass(
    quantize: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "both.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LASTTOKEN_PRECISION": "float32"}
    words = [sys.executable, str(script), str(folder("llama")), quantize]
    both = [
        subprocess.Popen(words, env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
