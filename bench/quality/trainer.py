"""The peer: what one writes today with HF Trainer, AutoModelForSequenceClassification and PEFT, on the same rows and settings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from scipy.special import softmax
from sklearn.metrics import f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lasttoken.data.dataset import Dataset, Splits
from lasttoken.model.load import locate


def fit_and_predict(
    settings: dict[str, Any], splits: Splits, seed: int, callbacks: Sequence[TrainerCallback] = ()
) -> tuple[np.ndarray, float, float]:
    """(probabilities of the test rows (N, C), seconds of training, seconds of prediction).

    settings, beside those of `embedding`: `dtype` of the frozen weights, `attention` of transformers, `grouped` by length.
    """
    set_seed(seed)
    folder, train = locate(settings["model"]), settings["train"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(splits.labels),
        dtype=getattr(torch, settings.get("dtype", "float32")),
        attn_implementation=settings.get("attention", "sdpa"),
        pad_token_id=tokenizer.pad_token_id,
    )
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=settings["lora"]["r"],
        lora_alpha=settings["lora"]["alpha"],
        lora_dropout=0.05,
        target_modules="all-linear",
        modules_to_save=["score"],
    )
    model = get_peft_model(model, lora)

    def rows(data: Dataset) -> list[dict[str, Any]]:
        ids = tokenizer(list(data.texts), truncation=True, max_length=settings["max_length"])["input_ids"]
        return [{"input_ids": one, "label": int(y)} for one, y in zip(ids, data.targets, strict=True)]

    with tempfile.TemporaryDirectory() as work:
        arguments = TrainingArguments(
            output_dir=work,
            num_train_epochs=train["epochs"],
            learning_rate=train["lr"],
            lr_scheduler_type="linear",
            warmup_steps=int(0.03 * train["epochs"] * len(splits.train) / train["batch"]),
            per_device_train_batch_size=train["batch"],
            per_device_eval_batch_size=32,
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=True,
            train_sampling_strategy="group_by_length" if settings.get("grouped") else "random",
            use_cpu=not torch.cuda.is_available(),
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="micro_f1",
            seed=seed,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows(splits.train),
            eval_dataset=rows(splits.valid),
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda out: {
                "micro_f1": f1_score(out.label_ids, out.predictions.argmax(1), average="micro")
            },
            callbacks=list(callbacks),
        )
        began = time.perf_counter()
        trainer.train()
        trained, began = time.perf_counter() - began, time.perf_counter()
        logits = trainer.predict(rows(splits.test)).predictions
        predicted = time.perf_counter() - began
    return softmax(logits.astype(np.float64), axis=1), trained, predicted
