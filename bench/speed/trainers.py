"""What one writes today to train: HF Trainer on a classification model, TRL's SFTTrainer on prompts, both over PEFT.

Each gets what makes it fast: pre-tokenised rows in plain lists, nothing logged, saved or evaluated, no gradient
checkpointing, and both of transformers' attentions to choose from. Timed is an epoch, from the first batch that is
fetched to the last update, by a callback; what `train()` prepares before and tidies up after is left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import ATTENTIONS, CPU, Quantize, classifier, dtype_of, language_model, tokenizer_of
from ours import PROMPT_LIMIT, WORDS, instruction_config
from rounds import Contender, Pass
from rows import Slice
from torch import nn
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from lasttoken.config.methods import Instruction
from lasttoken.data.dataset import Dataset
from lasttoken.methods import instruction
from lasttoken.model.backbone import Backbone
from lasttoken.model.precision import choose_precision
from lasttoken.text.prompt import Prompt

PACKED = 1024  # tokens of a packed row of TRL
Way = tuple[Quantize, int, bool]  # precision, rows an update, whether grouped by length


class Clock(TrainerCallback):
    """Seconds of the last epoch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.began = self.seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.now()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds = self.now() - self.began

    def now(self) -> float:
        """The time, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def settings(work: Path, batch: int, grouped: bool, device: torch.device = CPU, **more: Any) -> dict[str, Any]:
    """Arguments of an epoch without ceremony. Grouped rows come in an order that is grouped already (rows.py)."""
    return {
        "output_dir": str(work),
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "bf16": choose_precision(device).dtype == torch.bfloat16,
        "use_cpu": device.type == "cpu",
        "train_sampling_strategy": "sequential" if grouped else "random",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        **more,
    }


def epoch(trainer: Trainer, clock: Clock, model: Any, attention: str) -> Pass:
    """One epoch under one of transformers' attentions."""
    model.set_attn_implementation(attention)
    trainer.train()
    return Pass(clock.seconds)


def with_clock(trainer: Trainer, device: torch.device = CPU) -> Clock:
    """The clock of a trainer, which prints nothing from now on."""
    clock = Clock(device)
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    return clock


def contenders_of(name: str, trainer: Trainer, model: nn.Module, rows: np.ndarray, **more: Any) -> list[Contender]:
    """The trainer under each attention: one family, of which the faster stays."""
    clock, found = with_clock(trainer), []
    for attention in ATTENTIONS:

        def run(attention=attention) -> Pass:
            return epoch(trainer, clock, model, attention)

        found.append(Contender(f"{name}, {attention}", rows, run, family=name, **more))
    return found


def hf_trainer(
    folder: Path, part: Slice, head: torch.Tensor, ways: Sequence[Way], work: Path, least: int
) -> list[Contender]:
    """HF Trainer + AutoModelForSequenceClassification + PEFT, each way under each attention."""
    tokenizer, found, loaded = tokenizer_of(folder), [], {}
    for quantize, batch, grouped in ways:
        if quantize not in loaded:
            loaded[quantize] = classifier(folder, len(part.data.labels), head, quantize=quantize, lora=True)
        rows = part.part(max(batch, least))
        data = part.data.take(rows)
        ids = tokenizer(list(data.texts), truncation=True, max_length=part.limit, verbose=False)["input_ids"]
        trainer = Trainer(
            model=loaded[quantize],
            args=TrainingArguments(**settings(work, batch, grouped, bf16=dtype_of(quantize) == torch.bfloat16)),
            train_dataset=[{"input_ids": x, "label": int(y)} for x, y in zip(ids, data.targets, strict=True)],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        name = f"HF Trainer, {WORDS[quantize]}, batch {batch}{', grouped' if grouped else ''}"
        found += contenders_of(
            name, trainer, loaded[quantize], rows, batch=batch, tags=tags_of(quantize, batch, grouped)
        )
    return found


def tags_of(quantize: Quantize, batch: int, grouped: bool) -> tuple[str, ...]:
    """ "paper" for the way of the paper: NF4, 8 rows an update, in any order."""
    return ("paper",) if quantize == "nf4" and batch == 8 and not grouped else ()


def prompts(backbone: Backbone, prompt: Prompt, config: Instruction, data: Dataset) -> list[dict[str, list[int]]]:
    """Prompt and right answer of each row as token ids, the very ones that lasttoken trains on; 1 where loss is taken."""
    texts = instruction.encode_texts(backbone, prompt, data.texts, config).ids
    found = []
    for text, target in zip(texts, data.targets, strict=True):
        before = [*prompt.header.tolist(), *text.tolist(), *prompt.footer]
        answer = prompt.answers[int(target)]
        found.append({"input_ids": before + answer, "completion_mask": [0] * len(before) + [1] * len(answer)})
    return found


def trl(folder: Path, part: Slice, ways: Sequence[Way], work: Path, least: int) -> list[Contender]:
    """TRL's SFTTrainer with the loss on the completion alone, each way and its packing under each attention."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    found, loaded, config = [], {}, instruction_config(folder)
    backbone, prompt = instruction.build(config, part.data.labels, CPU)  # for its tokens
    for quantize, batch, grouped, pack in [*((*way, False) for way in ways), ("none", 1, False, True)]:
        if quantize not in loaded:
            loaded[quantize] = language_model(folder, quantize=quantize, lora=True)
        rows = part.part(part.size if pack else max(batch, least))
        more = {"activation_checkpointing": False, "completion_only_loss": True, "packing": pack}
        trainer = SFTTrainer(
            model=loaded[quantize],
            args=SFTConfig(**settings(work, batch, grouped, **more, max_length=PACKED if pack else PROMPT_LIMIT)),
            train_dataset=datasets.Dataset.from_list(prompts(backbone, prompt, config, part.data.take(rows))),
            processing_class=tokenizer_of(folder),
        )
        how = f"packed to {PACKED} tokens" if pack else f"batch {batch}{', grouped' if grouped else ''}"
        tags = tags_of(quantize, batch, grouped)
        name = f"TRL SFTTrainer, {WORDS[quantize]}, {how}"
        found += contenders_of(name, trainer, loaded[quantize], rows, batch=None if pack else batch, tags=tags)
    return found
