"""The configs of the five methods: each a table of settings, and what it says of its demands on a device.

Defaults are those of arXiv:2512.12677 where the paper names them, but for the epochs: its 20 and 5 are in recipes/paper.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, Union, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from lasttoken.config.footprint import Footprint
from lasttoken.config.settings import Count, Ends, Long, Lora, Settings, Share, Source, Training
from lasttoken.errors import ConfigError
from lasttoken.packages import default_model, default_probed

# Settings that several methods share
MODEL = (
    "Base model: a name on the Hugging Face Hub, a folder, a GGUF file, smollm2 or minilm (where their packages are "
    "installed), or tiny (embedded)"
)
Revision = Annotated[str | None, Field(description="Commit, tag or branch of the model on the Hub; default: main")]
OwnCode = Annotated[bool, Field(description="Allow the model to run code of its own")]
Quantize = Annotated[Literal["nf4", "none"], Field(description="Weights of the frozen model; nf4: 4 bits (QLoRA)")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Field(
        description="Of weights and arithmetic; auto: the faster one, measured on a CPU; bfloat16 on a GPU that has it"
    ),
]
Merge = Annotated[
    Literal["auto", "off"],
    Field(description="Merge the adapter into the weights to predict; auto: if memory allows; off keeps NF4"),
]
HeadInit = Annotated[
    Literal["auto", "probe", "random"],
    Field(
        description="Initial head; probe: fitted on the frozen model (arXiv:2202.10054); auto: probe if it is linear, "
        "beginning as the label names' rows of the vocabulary head where rows are few"
    ),
]
Loss = Annotated[Literal["cross_entropy", "focal", "logit_adjusted", "asymmetric"], Field(description="Loss function")]
Gamma = Annotated[NonNegativeFloat, Field(description="Focusing parameter of the focal and asymmetric losses")]
ClassWeights = Annotated[
    Literal["none", "balanced"],
    Field(description="Weights of the classes in the loss; balanced: inverse to their frequency"),
]
Smoothing = Annotated[Share, Field(description="Label smoothing: share of the target spread evenly over all labels")]
MaxLength = Annotated[PositiveInt, Field(description="Tokens per text that the model reads, or per window")]


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

    method: Literal["embedding"] = Field(default="embedding", description="Name of the method")
    model: Source = Field(default_factory=default_model, validate_default=True, description=MODEL)
    revision: Revision = None
    trust_remote_code: OwnCode = False
    quantize: Quantize = "none"
    precision: Precision = "auto"
    lora: Lora = Field(default=Lora(), description="Low-rank adapters")
    merge: Merge = "auto"
    trunk: Count = Field(default=0, description="Bottom blocks without LoRA, computed once and cached on disk")
    pooling: Literal["last", "mean", "max", "attention"] = Field(
        default="last", description="Pooling of hidden states; last: final token"
    )
    suffix: str = Field(
        default="",
        description='Text after every text, such as "\\nTopic:", so that the final token is about the label, as in '
        "PromptEOL (arXiv:2307.16645); not counted in max_length",
    )
    head: Literal["linear", "mlp"] = Field(default="linear", description="Classification head")
    head_bias: bool = Field(
        default=False, description="Bias of a linear head; transformers' classifiers of causal LMs have none"
    )
    head_init: HeadInit = "auto"
    loss: Loss = "cross_entropy"
    gamma: Gamma = 2.0
    class_weights: ClassWeights = "none"
    label_smoothing: Smoothing = 0.0
    max_length: MaxLength = 512
    long: Long = Field(default=Long(), description="How texts longer than max_length are read")
    train: Training = Field(default=Training(), description="How weights are fitted")

    @property
    def head_start(self) -> str:
        """How the head begins: `random` or `probe`."""
        return head_start(self.head_init, linear=self.head == "linear", combine=self.long.combine)

    @model_validator(mode="after")
    def probe_fits_the_head(self) -> Self:
        """Where a probe is asked for, the head must be one."""
        _ = self.head_start
        return self

    def footprint(self) -> Footprint:
        """What it loads, trains and runs."""
        return Footprint(
            model=self.model,
            reads="decoder",
            trains="adapter" if self.lora.r else "head",
            precision=self.precision,
            quantize=self.quantize,
            merge=self.merge == "auto",
            frozen_blocks=self.trunk,
            head=self.head,
            head_bias=self.head_bias,
            head_first=self.head_start == "probe",
            windows=self.long.windows(),
            max_length=self.max_length,
            revision=self.revision,
            **self.lora.footprint(),
            **self.train.footprint(),
        )


class Instruction(Settings):
    """The same LM, prompted; the answer is the label's text; every label scored exactly."""

    method: Literal["instruction"] = Field(default="instruction", description="Name of the method")
    model: Source = Field(default_factory=default_model, validate_default=True, description=MODEL)
    revision: Revision = None
    trust_remote_code: OwnCode = False
    quantize: Quantize = "none"
    precision: Precision = "auto"
    train_model: bool = Field(default=True, description="Fine-tune the model; false: zero-shot")
    lora: Lora = Field(default=Lora(r=64, alpha=128.0), description="Low-rank adapters")
    merge: Merge = "auto"
    prompt: str | None = Field(default=None, description="Template with {labels} and {text}; see text/prompt.py")
    chat: Literal["auto", "off"] = Field(default="auto", description="Chat template; auto: the tokenizer's, if any")
    verbalizer: dict[str, str] | Literal["numbers"] = Field(
        default={}, description="Answer for each label, by default its name; numbers: 1, 2, ..."
    )
    decode: Literal["score", "generate"] = Field(
        default="score",
        description="score: the exact probability of every label; generate: the model writes its answer",
    )
    tolerance: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Error allowed in a probability, for one label per row; larger: faster with many labels",
    )
    contextual: bool = Field(
        default=False,
        description="Remove the labels' prior on texts without content (contextual calibration, arXiv:2102.09690)",
    )
    label_separator: str = Field(default=", ", description="Separator of the labels in an answer")
    questions: PositiveInt = Field(default=16, description="With several labels per row: labels asked per update")
    max_length: MaxLength = 1024
    long: Ends = Field(default=Ends(), description="How texts longer than max_length are cut")
    train: Training = Field(
        default=Training(schedule="cosine", optimizer="paged_adamw32bit"),
        description="How weights are fitted",
    )

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

    def footprint(self) -> Footprint:
        """What it loads, trains and runs. Raises ConfigError where it should train, and nothing is left to."""
        if self.train_model and not self.lora.r:
            problem = "lora.r: 0 leaves nothing to train; set a rank, or train_model = false for zero-shot"
            raise ConfigError([problem])
        return Footprint(
            model=self.model,
            reads="decoder",
            trains="adapter" if self.train_model else "nothing",
            precision=self.precision,
            quantize=self.quantize,
            merge=self.merge == "auto",
            prompt=self.prompt or "",
            questions=self.questions,
            max_length=self.max_length,
            revision=self.revision,
            **self.lora.footprint(),
            **self.train.footprint(),
        )


class Encoder(Settings):
    """An encoder with a head, all of it trained."""

    suffix: ClassVar[str] = ""  # is for causal models
    trunk: ClassVar[int] = 0  # every block learns
    merge: ClassVar[Literal["auto", "off"]] = "off"  # there is no adapter

    method: Literal["encoder"] = Field(default="encoder", description="Name of the method")
    model: Source = Field(default="answerdotai/ModernBERT-base", description=MODEL)
    revision: Revision = None
    trust_remote_code: OwnCode = False
    pooling: Literal["first", "mean"] = Field(
        default="mean", description="Pooling of hidden states; first: first token"
    )
    head_init: HeadInit = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Of the arithmetic; weights are float32"
    )
    loss: Loss = "cross_entropy"
    gamma: Gamma = 2.0
    class_weights: ClassWeights = "none"
    label_smoothing: Smoothing = 0.0
    max_length: MaxLength = 512
    long: Long = Field(default=Long(), description="How texts longer than max_length are read")
    train: Training = Field(
        default=Training(lr=5e-5, warmup=0.1, batch=16, weight_decay=0.01),
        description="How weights are fitted",
    )

    @property
    def head_start(self) -> str:
        """How the head begins: `random` or `probe`."""
        return head_start(self.head_init, linear=True, combine=self.long.combine)

    @model_validator(mode="after")
    def probe_fits_the_head(self) -> Self:
        """Where a probe is asked for, the head must be one."""
        _ = self.head_start
        return self

    def footprint(self) -> Footprint:
        """What it loads, trains and runs."""
        return Footprint(
            model=self.model,
            reads="encoder",
            trains="everything",
            precision=self.precision,
            head="linear",
            head_first=self.head_start == "probe",
            windows=self.long.windows(),
            max_length=self.max_length,
            revision=self.revision,
            **self.train.footprint(),
        )


class Probe(Settings):
    """A frozen model's hidden states, pooled, under logistic regression."""

    suffix: ClassVar[str] = ""  # a mean over tokens gains nothing by it

    method: Literal["probe"] = Field(default="probe", description="Name of the method")
    model: Source = Field(default_factory=default_probed, validate_default=True, description=MODEL)
    revision: Revision = None
    trust_remote_code: OwnCode = False
    quantize: Quantize = "none"
    precision: Precision = "auto"
    layer: Annotated[int, Field(ge=0)] | Literal["auto", "last"] = Field(
        default="auto",
        description="Layer whose hidden states are used; 0: token embeddings; last: the last, which is a sentence "
        "encoder's own embedding; auto: the best by cross-validation, the own embedding unless another is clearly better",
    )
    pooling: Literal["auto", "first", "last", "mean", "max"] = Field(
        default="auto",
        description="Pooling of hidden states; first, last: one token; auto: as the model's modules.json says, else mean",
    )
    bidirectional: bool = Field(default=False, description="Drop the causal mask, as in LLM2Vec (arXiv:2404.05961)")
    regularisation: tuple[PositiveFloat, ...] = Field(
        default=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        description="Values of C, the inverse L2 penalty, for cross-validation",
    )
    class_weights: ClassWeights = "none"
    max_length: MaxLength = 512
    long: Long = Field(default=Long(), description="How texts longer than max_length are read")
    budget: PositiveInt = Field(default=8192, description="Tokens per batch; changes memory, not results")

    @model_validator(mode="after")
    def nothing_is_learnt(self) -> Self:
        """A frozen model has no attention over windows to learn."""
        if self.long.combine == "attention":
            raise ValueError(
                "long.combine = attention has to be learnt, and a probe trains nothing; choose mean or max"
            )
        return self

    def footprint(self) -> Footprint:
        """What it loads and runs."""
        return Footprint(
            model=self.model,
            reads="any",
            trains="nothing",
            precision=self.precision,
            quantize=self.quantize,
            layer=self.layer if isinstance(self.layer, int) else None,
            windows=self.long.windows(),
            max_length=self.max_length,
            revision=self.revision,
            budget=self.budget,
        )


class Linear(Settings):
    """TF-IDF of words and characters under logistic regression."""

    method: Literal["linear"] = Field(default="linear", description="Name of the method")
    words: tuple[PositiveInt, PositiveInt] = Field(default=(1, 2), description="Word n-grams: shortest and longest")
    characters: tuple[Count, Count] = Field(default=(3, 5), description="Character n-grams in words; (0, 0): none")
    min_count: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="Texts that must contain an n-gram for it to count; auto: 1 or 2, by the number of rows",
    )
    max_features: PositiveInt = Field(default=200_000, description="Most n-grams kept, of words and of characters each")
    regularisation: tuple[PositiveFloat, ...] | Literal["auto"] = Field(
        default="auto",
        description="Values of C, the inverse L2 penalty, for cross-validation; auto: 3 and 30, or 30 for few rows of several labels",
    )
    class_weights: ClassWeights = "none"

    @model_validator(mode="after")
    def from_at_most_to(self) -> Self:
        """N-grams count upwards, and none is (0, 0)."""
        for name, (first, last) in (("words", self.words), ("characters", self.characters)):
            if first > last or (first == 0) != (last == 0):
                raise ValueError(
                    f"{name} are n-grams from {first} to {last}; the first must be 1 or more and not above the last"
                )
        return self

    def footprint(self) -> Footprint:
        """Raises ConfigError, for it needs no device."""
        raise ConfigError(["--method linear: it trains in seconds on a CPU; there is nothing to plan"])


MethodConfig = Union[Embedding, Instruction, Encoder, Probe, Linear]  # noqa: UP007 - pydantic reads it at run time
METHOD_CONFIGS: dict[str, type[Settings]] = {
    kind.model_fields["method"].default: kind for kind in get_args(MethodConfig)
}
