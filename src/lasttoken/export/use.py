"""Code that loads an exported form, for the card: each block runs as it stands, once FOLDER is set."""

from __future__ import annotations

from typing import Any

from lasttoken.infer.portable import Reading
from lasttoken.labels import LabelSpace


def block(language: str, *lines: Any) -> str:
    """A code block."""
    return "\n".join([f"```{language}", *map(str, lines), "```"])


HF = block(
    "python",
    "from transformers import pipeline",
    "",
    'classify = pipeline("text-classification", model=FOLDER)',
    'print(classify("some text", truncation=True, top_k=None))',
)
RUNTIMES = {  # target -> (import, open, ask)
    "onnx": (
        "import onnxruntime",
        'run = onnxruntime.InferenceSession(f"{FOLDER}/PLACE")',
        'logits = run.run(["logits"], given)[0]',
    ),
    "openvino": (
        "import openvino",
        'run = openvino.Core().compile_model(f"{FOLDER}/PLACE", "CPU", {"INFERENCE_PRECISION_HINT": "PRECISION"})',
        "logits = run(given)[0]",
    ),
}


def graph(target: str, precision: str, file: str, reading: Reading, labels: LabelSpace) -> str:
    """Code that runs a graph in its own runtime. file: its name in the target's folder."""
    imported, opened, asked = RUNTIMES[target]
    text = f'{reading.prefix!r} + "some text"' if reading.prefix else '"some text"'
    text += f" + {reading.suffix!r}" if reading.suffix else ""
    squashed = "1 / (1 + np.exp(-logits))" if labels.multi else "softmax(logits, axis=1)"
    return block(
        "python",
        "import numpy as np" if labels.multi else "from scipy.special import softmax",
        imported,
        "from transformers import AutoTokenizer",
        "",
        opened.replace("PLACE", f"{target}/{file}").replace(
            '"PRECISION"', '"bf16"' if precision == "bfloat16" else '"f32"'
        ),
        f'tokenizer = AutoTokenizer.from_pretrained(f"{{FOLDER}}/{target}")',
        f'found = tokenizer([{text}], truncation=True, max_length={reading.limit}, return_tensors="np")',
        'given = {name: found[name].astype("int64") for name in ("input_ids", "attention_mask")}',
        asked,
        f"probs = {squashed}  # a column a label, in the order above",
    )
