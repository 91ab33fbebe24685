"""What `lasttoken.plan` foretells of the trainings in a file of gpu.py, beside what was measured; added to the file.

    python bench/speed/gpu_plan.py bench/speed/results/gpu.NAME.json

gpu.py calls it last, when its file is written and there is nothing left to lose, for as long as its minutes last. The rest
can be done later and on a machine without a GPU, for a card that the plan knows by name.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_parts import Place, our_config, rows_of, training
from memory_models import config_of
from models import LORA, tokenizer_of

from lasttoken.config import Instruction
from lasttoken.model.backbone import TINY
from lasttoken.plan.cards import find_card, this_machine
from lasttoken.plan.forecast import forecast
from lasttoken.plan.rows import Rows


def add_plans(path: Path, until: float = float("inf")) -> None:
    """Give each training in the file a `plan`: bytes and seconds foretold, and their error as a share of what was measured."""
    result = json.loads(path.read_text(encoding="utf-8"))
    name, toy = result["machine"]["device"], "toy size" in result["remark"]
    card = this_machine(torch.device("cpu")) if name.startswith("cpu") else find_card(name)
    with tempfile.TemporaryDirectory() as work:
        place = Place(torch.device(card.kind), tokenizer_of(TINY), Path(work), toy)
        for part in result["parts"]:
            for one in part["cells"] if part["what"].endswith("train") else []:
                if "plan" in one or time.monotonic() > until:
                    continue
                one["plan"] = plan(part["model"], part["what"], one, card, place, result["quantize"])
                path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(f"{part['model']}, {part['what']}, {one['rows']}: {one['plan']}", flush=True)


def plan(model: str, what: str, cell: dict[str, Any], card: Any, place: Place, quantize: str) -> dict[str, Any]:
    """The forecast of one training."""
    config: Any = our_config(model, place)
    if what.startswith("instruction"):
        config = Instruction(lora=LORA, merge="off", train=training(place))
    if not model.startswith("ModernBERT"):
        config = config.model_copy(update={"quantize": quantize})
    data, lengths = rows_of(model, cell["rows"], place)
    few = lengths[:1]
    rows = Rows(lengths, few, few, data.labels, data, "as they were drawn")
    foretold = forecast(config, config_of(model, place.tokenizer, toy=place.toy), place.tokenizer, rows, card, seed=0)
    memory, seconds = cell["ours"]["memory"], cell["n"] / median(cell["ours"]["rates"])
    found: dict[str, Any] = {"memory": foretold.peak, "memory_error": foretold.peak / memory - 1}
    if foretold.epoch_seconds is not None:
        found |= {"seconds": foretold.epoch_seconds, "seconds_error": foretold.epoch_seconds / seconds - 1}
    return found


if __name__ == "__main__":
    add_plans(Path(sys.argv[1]))
