"""Tables of settings that methods share: frozen models, read from and written to TOML, each field with its description.

A value that cannot be used is reported with all the others, in one ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from lasttoken.paths import local_text

UPDATES = 500  # of a training by default (docs/lab.md)
EPOCHS = (3.0, 20.0)  # the fewest and the most by default

Share = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) and "," not in given else given)
]

Source = Annotated[str, AfterValidator(local_text)]  # a path, its ~ expanded, or a name of another kind


class Settings(BaseModel):
    """Base of every config: frozen, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def over_own_defaults(cls, values: Any) -> Any:
        """A table that is given in part changes this config's own default of it, not that of the table's class."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            default = field.default
            if (
                isinstance(values.get(name), dict)
                and isinstance(default, Settings)
                and type(default) is field.annotation
            ):
                merged[name] = merge(default.model_dump(), values[name])
        return merged


def merge(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`default` with what is `given` put over it, table by table."""
    both = {
        name: merge(default[name], value) if isinstance(value, dict) and isinstance(default.get(name), dict) else value
        for name, value in given.items()
    }
    return {**default, **both}


class Data(Settings):
    """Where the rows are, and which columns mean what."""

    source: Source = Field(default="", description="File of rows, hub:OWNER/NAME[:CONFIG] or wipo:FOLDER")
    text: Names = Field(default=("text",), description="Text column; several are joined by a blank line")
    template: str | None = Field(
        default=None,
        description='Joins text columns: "{title}. {body}"; default: a blank line',
    )
    label: Names = Field(default=("label",), description="Label column, or one column of 0 and 1 for each label")
    separator: str | None = Field(default=None, description='Separator of several labels in a cell: ";" in "A;C"')
    id: str | None = Field(default=None, description="Column of unique row ids; default: row numbers, from 0")
    group: str | None = Field(default=None, description="Column of groups, which are never split across parts")
    split: str | None = Field(default=None, description="Column that says train, valid or test")
    valid: Source | None = Field(default=None, description="File of validation rows; default: held out from training")
    test: Source | None = Field(default=None, description="File of test rows; default: held out from training")
    encoding: str = Field(default="utf-8", description="Encoding of CSV, TSV and JSONL files")
    quoting: Literal["auto", "none"] = Field(
        default="auto",
        description="Quotes in CSV and TSV: auto; none: quotation marks are characters like any other",
    )
    drop_empty: bool = Field(default=False, description="Leave out rows without text or without their only label")
    valid_share: Part = Field(default=0.1, description="Share of rows held out for validation if none are given")
    test_share: Part = Field(default=0.2, description="Share of rows held out for testing if none are given")
    hierarchy: str | None = Field(
        default=None,
        description='Separator of levels in label names ("/" in "A/A61"), or a CSV file of label,parent',
    )
    split_seed: Count | None = Field(default=None, description="Seed of the splits made here; default: the run's seed")
    train_rows: PositiveInt | None = Field(default=None, description="Training rows to draw at random; default: all")
    folds: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Folds (5 or 10) of a cross-validation that judges every row; default: a test part"
    )

    @model_validator(mode="after")
    def folds_judge_every_row(self) -> Self:
        """With folds there is no test part, and every fold has validation rows of its own."""
        if self.folds is not None:
            changed = {name: getattr(self, name) for name in ("split", "valid", "test", "train_rows")}
            changed["test_share"] = None if self.test_share == type(self).model_fields["test_share"].default else True
            given = [name for name, value in changed.items() if value is not None]
            if given:
                raise ValueError(
                    f"folds = {self.folds} judges every row by models of the others, which leaves nothing for "
                    f"{given[0]} to say; leave out {given[0]}, or folds"
                )
        return self


class Lora(Settings):
    """Low-rank adapters (Hu 2021, arXiv:2106.09685) through PEFT."""

    r: Count = Field(default=8, description="Rank of the adapters; 0 trains only the head")
    alpha: PositiveFloat = Field(default=16.0, description="Scale: the adapter's output is multiplied by alpha / r")
    dropout: Share = Field(default=0.05, description="Dropout on the input of the adapters")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        description="Names of layers with an adapter; all-linear: every linear layer of the blocks",
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(r) instead (rsLoRA, arXiv:2312.03732)")
    dora: bool = Field(default=False, description="Train magnitude and direction apart (DoRA, arXiv:2402.09353)")

    def footprint(self) -> dict[str, Any]:
        """Its part of a method's footprint."""
        return {"rank": self.r, "targets": self.targets, "lora_dropout": self.dropout, "dora": self.dora}


class Training(Settings):
    """How weights are fitted."""

    epochs: PositiveFloat | Literal["auto"] = Field(
        default="auto",
        description="Passes over the training rows, fewer if stopped early; auto: as many as give 500 updates, but 3 to 20",
    )
    lr: PositiveFloat | Literal["auto"] = Field(
        default="auto",
        description="Peak learning rate; auto: 2e-4 from hidden size 2,048 on, growing as 1 / size below",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="Learning rate after warmup"
    )
    warmup: Share = Field(default=0.03, description="Share of the updates in which the learning rate rises")
    batch: PositiveInt = Field(default=8, description="Rows per update")
    budget: PositiveInt = Field(default=8192, description="Tokens per micro-batch; changes memory, not results")
    checkpointing: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Activation checkpointing: less memory, a third more time; auto: when memory is short",
    )
    shard: bool = Field(
        default=False,
        description="Split the frozen weights over the processes of --gpus (FSDP2), for a model that does not fit one GPU",
    )
    compile: bool = Field(default=False, description="Use torch.compile: slow start, then faster; needs a C++ compiler")
    optimizer: Literal["adamw8bit", "paged_adamw32bit", "adamw"] = Field(
        default="adamw",
        description="Optimizer on CUDA; other devices always use adamw. adamw8bit (the paper's) saves 6 bytes a trained "
        "weight and waits for the GPU at every tensor; paged_adamw32bit moves its states out of a full GPU",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Decoupled weight decay of AdamW")
    clip: PositiveFloat = Field(default=1.0, description="Largest L2 norm of the gradient; larger ones are scaled down")
    metric: str = Field(default="micro_f1", description="Validation metric for early stopping and for the weights kept")
    evaluations: PositiveInt = Field(default=1, description="Validations per epoch")
    patience: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="Validations without improvement before training stops; auto: a third of all, at least 2",
    )

    def footprint(self) -> dict[str, Any]:
        """Its part of a method's footprint."""
        names = ("epochs", "batch", "budget", "evaluations", "optimizer", "checkpointing", "shard")
        return {name: getattr(self, name) for name in names}


class Ends(Settings):
    """What is read of a text that is longer than max_length."""

    keep: Literal["head", "tail", "head_tail"] = Field(
        default="head",
        description="Part that is read; head_tail: a quarter from the start, the rest from the end (arXiv:1905.05583)",
    )


class Long(Settings):
    """What is read of a text that is longer than max_length: an end of it, or all of it in windows."""

    keep: Literal["head", "tail", "head_tail", "windows"] = Field(
        default="head",
        description="Part that is read; head_tail: a quarter from the start, the rest from the end; windows: all",
    )
    overlap: Share = Field(default=0.25, description="Share of a window that the next window repeats")
    most: PositiveInt = Field(default=16, description="Windows per text, at most; the rest of the text is cut")
    combine: Literal["mean", "max", "attention"] = Field(
        default="mean",
        description="How the windows' logits are combined; attention: learnt weights over their embeddings",
    )

    @model_validator(mode="after")
    def only_windows_are_combined(self) -> Self:
        """Where there is one piece of a text there is nothing to combine."""
        if self.combine != "mean" and self.keep != "windows":
            raise ValueError(f"combine = {self.combine} is for keep = windows; set that too, or leave combine out")
        return self

    def windows(self) -> tuple[float, int] | None:
        """(share that overlaps, most windows a text), or None where a text is cut."""
        return (self.overlap, self.most) if self.keep == "windows" else None


class Decision(Settings):
    """How probabilities are calibrated and decided on; all of it is chosen on validation rows alone.

    Thresholds, at_least_one and top are for rows with several labels; `auto` is macro-F1, as far as that costs no more
    than half a point of micro-F1.
    """

    calibration: Literal[
        "auto", "auto_temperature", "off", "temperature", "vector", "dirichlet", "isotonic", "platt", "beta"
    ] = Field(
        default="auto",
        description="Calibration of the probabilities; auto: the one with the lowest cross-validated log-loss; "
        "auto_temperature: temperature, where it lowers that loss",
    )
    thresholds: Literal["auto", "half", "micro_f1", "macro_f1", "samples_f1", "precision", "recall", "cost"] = Field(
        default="auto", description="With several labels per row: what the thresholds optimise"
    )
    wanted: Part = Field(default=0.9, description="Precision or recall of each label, for thresholds of that name")
    false_cost: PositiveFloat = Field(default=1.0, description="Cost of a wrong label, for thresholds = cost")
    missed_cost: PositiveFloat = Field(default=1.0, description="Cost of a missed label, for thresholds = cost")
    costs: dict[str, dict[str, NonNegativeFloat]] | None = Field(
        default=None,
        description="Cost by true and predicted label; with several labels per row: by label, false and missed",
    )
    at_least_one: bool = Field(default=False, description="Give the label closest to its threshold if none reaches it")
    top: Count = Field(default=0, description="Give this many of the most probable labels; 0: use thresholds")
    most_wrong: Part | None = Field(default=None, description="Abstain so that at most this share of answers is wrong")
    coverage: Part | None = Field(
        default=None, description="Share of rows whose prediction set must contain the true label; default: no sets"
    )


def learning_rate(lr: float | str, width: int) -> float:
    """`auto` is 2e-4, the paper's, for models 2,048 wide or wider, and grows as 1 / width below that (Yang 2022, arXiv:2203.03466)."""
    return 2e-4 * 2048 / min(2048, width) if isinstance(lr, str) else lr


def epochs_of(epochs: float | str, batch: int, rows: int) -> float:
    """`auto` is the fewest whole epochs with UPDATES updates, within EPOCHS: few rows have to be seen often, many need not be."""
    fewest, most = EPOCHS
    return min(most, max(fewest, float(-(-UPDATES * batch // max(1, rows))))) if isinstance(epochs, str) else epochs


def patience_of(patience: int | str, validations: float) -> int:
    """`auto` is a third of the validations of a training, at least 2: few validation rows say little each time."""
    return max(2, round(validations / 3)) if isinstance(patience, str) else patience
