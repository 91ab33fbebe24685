"""What clients send and get, in three dialects: our own, TEI's and vLLM's. The OpenAPI page is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Text = Annotated[str, Field(examples=["Arrived broken, twice."])]
Model = Annotated[str | None, Field(description="Name of a run, as /labels tells; the first where none is named")]


class Ask(BaseModel):
    """Texts to label."""

    model_config = ConfigDict(extra="forbid", title="Ask")

    texts: list[Text] = Field(min_length=1, examples=[["Arrived broken, twice.", "Works as described."]])
    probs: bool = Field(False, description="Add the calibrated probability of every label")
    model: Model = None


class TeiAsk(BaseModel):
    """As TEI's clients ask: one text, or a list of lists of one text each. Unknown keys are let pass, as there."""

    model_config = ConfigDict(extra="ignore", title="TeiAsk")

    inputs: str | list[Any] = Field(examples=["Arrived broken, twice.", [["Arrived broken, twice."], ["Works."]]])
    raw_scores: bool = Field(False, description="Log-probabilities, with several labels a text log-odds")
    truncate: bool = Field(False, description="Without effect: texts are cut as they were in training")
    parameters: dict[str, Any] | None = Field(None, description="As huggingface_hub's InferenceClient sends: top_k")
    model: Model = None


class VllmAsk(BaseModel):
    """As vLLM's clients ask."""

    model_config = ConfigDict(extra="ignore", title="VllmAsk")

    input: str | list[str] = Field(examples=["Arrived broken, twice.", ["Arrived broken, twice.", "Works."]])
    model: Model = None
    use_activation: bool = Field(True, description="false: log-probabilities, with several labels a text log-odds")


class ExplainAsk(BaseModel):
    """A text whose label is to be explained."""

    model_config = ConfigDict(extra="forbid", title="ExplainAsk")

    text: Text
    label: str | None = Field(None, description="The label to explain; null: the predicted one")
    model: Model = None


def dialect(body: Any) -> str:
    """Which of two forms a body of /predict has."""
    tei = isinstance(body, TeiAsk) or (isinstance(body, dict) and "inputs" in body and "texts" not in body)
    return "tei" if tei else "own"


Predict = Annotated[Annotated[Ask, Tag("own")] | Annotated[TeiAsk, Tag("tei")], Discriminator(dialect)]


class Answer(BaseModel):
    """The answer for a text; with several labels a text, `labels` and `decision` are lists and there is no `label`."""

    label: str | None = Field(None, description="The most probable label, or the one of least expected cost")
    labels: list[str] | None = Field(None, description="Labels over their thresholds")
    probability: float | None = Field(None, description="Calibrated probability of `label`")
    decision: str | list[str] | None = Field(description="What to act on: null where the text is left to a person")
    abstained: bool = Field(description="Whether the text is left to a person")
    set: list[str] | None = Field(None, description="Labels of the conformal set, where the run has a coverage")
    probs: dict[str, float] | None = Field(None, description="Calibrated probability of every label")
    truncated: int = Field(description="Tokens that the length limit cut off")


class Answers(BaseModel):
    """Answers in the order of the texts."""

    model: str
    digest: str = Field(description="sha256 that names the run's files")
    answers: list[Answer]


class Score(BaseModel):
    """A label's probability, as TEI gives it."""

    score: float
    label: str


class VllmAnswer(BaseModel):
    """The answer for a text, as vLLM gives it."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class VllmAnswers(BaseModel):
    """Answers as vLLM gives them."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[VllmAnswer]
    usage: dict[str, Any]


class Word(BaseModel):
    """A word of an explained text."""

    start: int
    end: int
    score: float | None = Field(description="What it adds to the label's log-odds; null: it was not read")


class Explained(BaseModel):
    """What the words of a text add to a label."""

    label: str
    by: Literal["gradients", "removal"]
    words: list[Word]


class Problem(BaseModel):
    """Why there is no answer, as TEI says it."""

    error: str
    error_type: str


class VllmFault(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: None
    code: int


class VllmProblem(BaseModel):
    """Why there is no answer, as vLLM and OpenAI say it."""

    error: VllmFault


class VllmModel(BaseModel):
    """A run that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class VllmModels(BaseModel):
    """The runs that are served."""

    object: Literal["list"]
    data: list[VllmModel]
