"""What a run is told: frozen models that read and write TOML. Every default stands here and is saved with the run.

Defaults are those of arXiv:2512.12677 where the paper names them. A value that cannot be used is reported with all
the others, in one ConfigError.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from lasttoken.errors import ConfigError

Share = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) and "," not in given else given)
]


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

    source: str = ""  # file, hub:owner/name[:config], or words for rows given from Python
    valid: str | None = None  # a file of its own
    test: str | None = None
    text: Names = ("text",)
    template: str | None = None  # "{title}\n\n{body}"; None joins the text columns by an empty line
    label: Names = ("label",)  # one column of names or lists, or several columns of 0 and 1
    separator: str | None = None  # splits a string into several labels
    id: str | None = None
    group: str | None = None  # rows of one group never cross a split
    split: str | None = None  # a column of train, valid, test
    encoding: str = "utf-8"
    drop_empty: bool = (
        False  # leave out rows without text, or without the one label they should have, instead of refusing them
    )
    valid_share: Part = 0.1
    test_share: Part = 0.2
    hierarchy: str | None = None  # what stands between the levels of a label, or a CSV file of columns label and parent
    split_seed: Count | None = None  # of the splits made here; None: the run's seed
    train_rows: PositiveInt | None = None  # train on so many rows, drawn by the run's seed; None: on all


class Lora(Settings):
    """Low-rank adapters (Hu 2021, arXiv:2106.09685) through PEFT."""

    r: Count = 8  # 0: no adapter, only the head trains
    alpha: PositiveFloat = 16.0
    dropout: Share = 0.05
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"  # every linear layer of the blocks, or names
    rslora: bool = False  # scale by alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732)
    dora: bool = False  # magnitude and direction apart (Liu 2024, arXiv:2402.09353)


class Training(Settings):
    """How weights are fitted."""

    epochs: PositiveFloat = 20.0
    lr: PositiveFloat | Literal["auto"] = (
        "auto"  # auto: 2e-4 for models 2,048 wide or wider, growing as 1 / width below
    )
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.03  # share of the updates
    batch: PositiveInt = 8  # rows an update
    budget: PositiveInt = 8192  # tokens a micro-batch; memory, not the result, depends on it
    checkpointing: Literal["auto", "on", "off"] = (
        "auto"  # of activations: less memory, a third more time; auto: when short
    )
    compile: bool = False  # of the blocks, by torch: slow to begin, then faster; needs a C++ compiler
    optimizer: Literal["adamw8bit", "paged_adamw32bit", "adamw"] = "adamw8bit"  # on CUDA; elsewhere always adamw
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: PositiveFloat = 1.0  # L2 norm of the gradient
    metric: str = "micro_f1"  # of validation; decides early stopping and which weights are kept
    evaluations: PositiveInt = 1  # of validation, an epoch
    patience: PositiveInt = 2  # evaluations without a gain before training stops


class Ends(Settings):
    """What is read of a text that is longer than max_length."""

    keep: Literal["head", "tail", "head_tail"] = "head"  # head_tail: a quarter and three (Sun 2019, arXiv:1905.05583)


class Long(Settings):
    """What is read of a text that is longer than max_length: an end of it, or all of it in windows."""

    keep: Literal["head", "tail", "head_tail", "windows"] = "head"
    overlap: Share = 0.25  # of a window that the next one repeats
    most: PositiveInt = 16  # windows of a text; what lies behind them is cut
    combine: Literal["mean", "max", "attention"] = "mean"  # of the windows' logits; attention: over their embeddings

    @model_validator(mode="after")
    def only_windows_are_combined(self) -> Self:
        """Where there is one piece of a text there is nothing to combine."""
        if self.combine != "mean" and self.keep != "windows":
            raise ValueError(f"combine = {self.combine} is for keep = windows; set that too, or leave combine out")
        return self


def head_start(asked: str, *, linear: bool, combine: str) -> str:
    """`random` or `probe`, where `auto` is `probe` if the head is one linear layer on one vector a text.

    Raises ValueError where `probe` is asked for and it is not.
    """
    if asked != "probe":
        return "probe" if asked == "auto" and linear and combine != "max" else "random"
    if not linear:
        raise ValueError("head_init = probe fits one linear layer; leave head = mlp out, or head_init")
    if combine == "max":
        raise ValueError(
            "head_init = probe fits one vector a text; choose long.combine = mean or attention, or leave it out"
        )
    return "probe"


class Embedding(Settings):
    """A causal LM, LoRA, and a head on the final token's hidden state."""

    method: Literal["embedding"] = "embedding"
    model: str = "tiny"
    revision: str | None = None
    trust_remote_code: bool = False
    quantize: Literal["nf4", "none"] = "none"
    lora: Lora = Lora()
    merge: Literal["auto", "off"] = (
        "auto"  # the adapter into the weights to predict, where memory allows; off keeps NF4
    )
    trunk: Count = 0  # blocks without LoRA at the bottom, whose hidden states are computed once and kept on disk
    pooling: Literal["last", "mean", "max", "attention"] = "last"
    head: Literal["linear", "mlp"] = "linear"
    head_init: Literal["auto", "probe", "random"] = (
        "auto"  # probe: fitted alone first, on the frozen model (arXiv:2202.10054); auto: that, where it can be
    )
    loss: Literal["cross_entropy", "focal", "logit_adjusted", "asymmetric", "ranking"] = "cross_entropy"
    gamma: NonNegativeFloat = 2.0  # of focal and asymmetric: how much less what is known well counts
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Share = 0.0
    max_length: PositiveInt = 512  # tokens
    long: Long = Long()
    train: Training = Training()

    @property
    def head_start(self) -> str:
        """How the head begins: `random` or `probe`."""
        return head_start(self.head_init, linear=self.head == "linear", combine=self.long.combine)

    @model_validator(mode="after")
    def probe_fits_the_head(self) -> Self:
        """Where a probe is asked for, the head must be one."""
        _ = self.head_start
        return self


class Instruction(Settings):
    """The same LM, prompted; the answer is the label's text; every label scored exactly."""

    method: Literal["instruction"] = "instruction"
    model: str = "tiny"
    revision: str | None = None
    trust_remote_code: bool = False
    quantize: Literal["nf4", "none"] = "none"
    train_model: bool = True  # False: zero-shot, the same code without training
    lora: Lora = Lora(r=64, alpha=128.0)
    merge: Literal["auto", "off"] = (
        "auto"  # the adapter into the weights to predict, where memory allows; off keeps NF4
    )
    prompt: str | None = None  # a template with {labels} and {text}; None: see text/prompt.py
    chat: Literal["auto", "off"] = "auto"  # auto: the tokenizer's chat template where it has one
    verbalizer: dict[str, str] | Literal["numbers"] = {}  # label -> answer, else its name; numbers: 1, 2, ...
    decode: Literal["score", "generate"] = "score"
    tolerance: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # of a label's probability, one label a row; 0 scores every label to its end, more is faster with many labels
    )
    contextual: bool = False  # take the labels' prior on texts without content out of the scores (arXiv:2102.09690)
    label_separator: str = ", "  # of a multi-label answer
    questions: PositiveInt = 16  # multi-label training: labels asked about per row and update
    max_length: PositiveInt = 1024  # tokens, prompt included
    long: Ends = Ends()
    train: Training = Training(epochs=5.0, schedule="cosine", optimizer="paged_adamw32bit")

    @model_validator(mode="after")
    def scores_are_there(self) -> Self:
        """What is generated has no scores, and a prior taken out of them stretches small ones beyond any tolerance."""
        if self.tolerance and self.decode == "generate":
            raise ValueError("tolerance is for decode = score; leave it out, or leave decode out")
        if self.tolerance and self.contextual:
            raise ValueError("tolerance does not hold once a prior is taken out; leave it out, or leave contextual out")
        if self.contextual and self.decode == "generate":
            raise ValueError("contextual is for decode = score; leave it out, or leave decode out")
        return self


class Encoder(Settings):
    """An encoder with a head, all of it trained."""

    method: Literal["encoder"] = "encoder"
    model: str = "answerdotai/ModernBERT-base"
    revision: str | None = None
    trust_remote_code: bool = False
    pooling: Literal["first", "mean"] = "mean"
    head_init: Literal["auto", "probe", "random"] = (
        "auto"  # probe: fitted alone first, on the frozen model (arXiv:2202.10054); auto: that, where it can be
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic; weights are float32
    loss: Literal["cross_entropy", "focal", "logit_adjusted", "asymmetric", "ranking"] = "cross_entropy"
    gamma: NonNegativeFloat = 2.0  # of focal and asymmetric: how much less what is known well counts
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Share = 0.0
    max_length: PositiveInt = 512
    long: Long = Long()
    train: Training = Training(epochs=5.0, lr=5e-5, warmup=0.1, batch=16, weight_decay=0.01)

    @property
    def head_start(self) -> str:
        """How the head begins: `random` or `probe`."""
        return head_start(self.head_init, linear=True, combine=self.long.combine)

    @model_validator(mode="after")
    def probe_fits_the_head(self) -> Self:
        """Where a probe is asked for, the head must be one."""
        _ = self.head_start
        return self


class Probe(Settings):
    """A frozen model's hidden states, pooled, under logistic regression."""

    method: Literal["probe"] = "probe"
    model: str = "tiny"
    revision: str | None = None
    trust_remote_code: bool = False
    quantize: Literal["nf4", "none"] = "none"
    layer: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"  # 0: token embeddings; auto: best on validation
    pooling: Literal["last", "mean", "max"] = "mean"
    bidirectional: bool = False  # drop the causal mask, after LLM2Vec (BehnamGhader 2024, arXiv:2404.05961)
    regularisation: tuple[PositiveFloat, ...] = (0.01, 0.1, 1.0, 10.0)  # C of the regression, by cross-validation
    class_weights: Literal["none", "balanced"] = "none"
    max_length: PositiveInt = 512
    long: Long = Long()  # combine: of the windows' embeddings, mean or max
    budget: PositiveInt = 8192

    @model_validator(mode="after")
    def nothing_is_learnt(self) -> Self:
        """A frozen model has no attention over windows to learn."""
        if self.long.combine == "attention":
            raise ValueError(
                "long.combine = attention has to be learnt, and a probe trains nothing; choose mean or max"
            )
        return self


class Linear(Settings):
    """TF-IDF of words and characters under logistic regression."""

    method: Literal["linear"] = "linear"
    words: tuple[PositiveInt, PositiveInt] = (1, 2)  # n-grams, from and to
    characters: tuple[Count, Count] = (3, 5)  # n-grams inside words; (0, 0): none
    min_count: PositiveInt = 2  # documents that must hold an n-gram
    max_features: PositiveInt = 200_000  # of each of the two kinds
    regularisation: tuple[PositiveFloat, ...] = (3.0, 30.0)  # C, by cross-validation
    class_weights: Literal["none", "balanced"] = "none"

    @model_validator(mode="after")
    def from_at_most_to(self) -> Self:
        """N-grams count upwards, and none is (0, 0)."""
        for name, (first, last) in (("words", self.words), ("characters", self.characters)):
            if first > last or (first == 0) != (last == 0):
                raise ValueError(
                    f"{name} are n-grams from {first} to {last}; the first must be 1 or more and not above the last"
                )
        return self


class Decision(Settings):
    """How probabilities are calibrated and decided on; all of it is chosen on validation rows alone.

    Thresholds, at_least_one and top are for rows with several labels; `auto` is macro-F1, as far as that costs no more
    than half a point of micro-F1.
    """

    calibration: Literal["auto", "off", "temperature", "vector", "dirichlet", "isotonic", "platt", "beta"] = "auto"
    thresholds: Literal["auto", "half", "micro_f1", "macro_f1", "samples_f1", "precision", "recall", "cost"] = "auto"
    wanted: Part = 0.9  # of each label's precision or recall, where thresholds are for one of them
    false_cost: PositiveFloat = 1.0  # of a label given wrongly, where thresholds are for cost
    missed_cost: PositiveFloat = 1.0  # of a label left out
    costs: dict[str, dict[str, NonNegativeFloat]] | None = (
        None  # true -> decided -> cost; several labels: label -> false, missed
    )
    at_least_one: bool = False  # the closest label where none reaches its threshold
    top: Count = 0  # so many of the most probable labels, in the place of thresholds
    most_wrong: Part | None = None  # abstain from so many rows that at most this share of the answers is wrong
    coverage: Part | None = None  # also give sets of labels that hold the truth in this share of rows


MethodConfig = Union[Embedding, Instruction, Encoder, Probe, Linear]  # noqa: UP007 - pydantic reads it at run time
METHOD_CONFIGS: dict[str, type[Settings]] = {
    kind.model_fields["method"].default: kind for kind in get_args(MethodConfig)
}


class Run(Settings):
    """One training run, whole: what config.toml holds."""

    seed: Count = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: Data = Data()
    decision: Decision = Decision()
    explained: Count = 5  # of the surest mistakes on test rows, those whose words the report weighs
    method: Annotated[MethodConfig, Field(discriminator="method")] = Embedding()


def learning_rate(lr: float | str, width: int) -> float:
    """`auto` is 2e-4, the paper's, for models 2,048 wide or wider, and grows as 1 / width below that (Yang 2022, arXiv:2203.03466)."""
    return 2e-4 * 2048 / min(2048, width) if isinstance(lr, str) else lr


def parse(kind: type[Settings], values: Mapping[str, Any]) -> Any:
    """`kind` made of plain values. Raises ConfigError with every problem, each with its dotted name and what would do."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        named: dict[str, str] = {}
        problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
        for problem in problems:  # a setting of several types has a problem with each; one line is enough
            told = sentence(kind, problem, values.get("method"))
            name = told.partition(":")[0]
            first = named.setdefault(name, told)
            if problem["type"] == "tuple_type":
                named[name] = first + listing(problem["input"])
            elif problem["type"] == "literal_error" and first != told:
                named[name] = first.replace(", got ", f" or {problem['ctx']['expected']}, got ", 1)
        raise ConfigError(list(named.values())) from error


def sentence(kind: type[Settings], problem: dict[str, Any], given: Any = None) -> str:
    """One problem of a config: where, what, and the nearest name where a name is unknown.

    given: what is said of the method, whose settings are those that may have been meant.
    """
    told = list(map(str, problem["loc"]))
    if told[:2] == ["decision", "costs"]:  # below it are labels, named as they like
        place = [part if re.fullmatch(r"\w+", part) else f"{part!r}" for part in told if part != "[key]"]
    else:
        place = [part for part in told if re.fullmatch(r"\w+", part) and part not in METHOD_CONFIGS]
    name = ".".join(place) or "settings"
    if problem["type"] == "extra_forbidden":
        known = sorted(names(kind))
        method = METHOD_CONFIGS.get(given.get("method", "")) if isinstance(given, dict) else None
        if kind is Run and method is not None and place[0] != "method":
            known = [n for n in known if not n.startswith("method.")] + sorted(names(method, "method."))
        if any(setting == name or setting.startswith(f"{name}.") for setting in known):  # of another method
            chosen = next(part for part in map(str, problem["loc"]) if part in METHOD_CONFIGS)
            bare = name.removeprefix(f"{place[0]}.") if place[1:] else name
            others = [m for m, c in METHOD_CONFIGS.items() if any(f"{n}.".startswith(f"{bare}.") for n in names(c))]
            have = f"{' and '.join(others)} {'have' if others[1:] else 'has'}"
            return f"{name}: {chosen} has no such setting; {have} (compare: --set METHOD.NAME=VALUE)"
        if chosen := next((part for part in map(str, problem["loc"]) if part in METHOD_CONFIGS), None):
            known = sorted(names(METHOD_CONFIGS[chosen], f"{place[0]}." if place[:-1] else ""))
        every = known + sorted({setting.rpartition(".")[0] for setting in known} - {"", *known})  # and their tables
        ends = (f".{name}", f".{place[-1]}")  # train.lr of method.train.lr, method.lr of the same
        near = [n for end in ends for n in every if n.endswith(end)]
        # a slip keeps the table and, as a rule, the first letter
        alike = [n for n in every if n.count(".") == name.count(".") and n.split(".")[-1][0] == place[-1][0]]
        near += difflib.get_close_matches(name, alike, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{name}: no such setting; {hint}"
    if problem["type"] == "value_error":  # of a validator here, which says all there is to say
        return f"{name}: {problem['ctx']['error']}"
    return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def listing(given: Any) -> str:
    """How to write what should have been a list: q_proj,v_proj as ['q_proj','v_proj'], without a space for a shell to cut at."""
    if not isinstance(given, str):
        return f"; several are written as [{given!r},...]"
    parts = ",".join(f"""'{part.strip(" '")}'""" for part in given.strip("[]").split(","))
    return f'; several are written as [{parts}], on a command line within "double quotes"'


def names(kind: type[Settings], prefix: str = "") -> set[str]:
    """Dotted names of every setting of `kind`."""
    found: set[str] = set()
    for name, field in kind.model_fields.items():
        inner = [
            t
            for t in (field.annotation, *get_args(field.annotation))
            if isinstance(t, type) and issubclass(t, Settings)
        ]
        for each in inner:
            found |= names(each, f"{prefix}{name}.")
        if not inner:
            found.add(f"{prefix}{name}")
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of nested values; a name that holds more than letters, digits and - is quoted."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        name = name if re.fullmatch(r"[\w-]+", name) else f'"{name}"'
        pairs += flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [(f"{prefix}{name}", value)]
    return pairs


def settings_line(config: Run) -> str:
    """Every setting of the method in one line, defaults too."""
    return "settings: " + ", ".join(f"{name}={value}" for name, value in flat(config.method.model_dump(mode="json")))


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of nested `values` after `a.b=value` assignments; a value is TOML, or a string where it is not TOML."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    wrong = [a for a in assignments if "=" not in a]
    if wrong:
        raise ConfigError([f"--set {a}: write it as name=value, for instance --set method.lora.r=16" for a in wrong])
    for assignment in assignments:
        path, _, text = assignment.partition("=")
        *parents, last = path.strip().split(".")
        place = result
        for parent in parents:
            inner = place.get(parent) or {}
            if not isinstance(inner, dict):
                raise ConfigError([f"--set {assignment}: {parent!r} is a single value, not a table of settings"])
            place[parent] = dict(inner)
            place = place[parent]
        place[last] = toml_value(text.strip())
    return result


def toml_value(text: str) -> Any:
    """`text` read as a TOML value; itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text.startswith("{"):
            raise ConfigError(
                [
                    f'--set ...={text}: {error}; a table is {{name = value, ...}}, with "quotes" around names of several words'
                ]
            ) from error
        return text


def to_toml(config: Settings) -> str:
    """Every setting, defaults too; those that are None are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def read_run(path: Path) -> Run:
    """The Run in a TOML file. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such file"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([f"{path}: not a TOML file ({error})"]) from error
    return parse(Run, values)
