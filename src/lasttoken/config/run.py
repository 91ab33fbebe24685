"""One run, whole: rows, method and decisions, as config.toml holds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lasttoken.config.methods import Embedding, MethodConfig
from lasttoken.config.settings import Count, Data, Decision, Settings


class Run(Settings):
    """One training run, whole: what config.toml holds."""

    seed: Count = Field(default=0, description="Seed of splits, initial weights and row order")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: the first of cuda, mps and cpu that is there"
    )
    data: Data = Field(default=Data(), description="Rows and columns")
    decision: Decision = Field(default=Decision(), description="Calibration, thresholds and abstention")
    explained: Count = Field(default=5, description="Surest test mistakes that the report explains word by word")
    method: Annotated[MethodConfig, Field(discriminator="method")] = Field(
        default=Embedding(), description="Embedding, Instruction, Encoder, Probe or Linear"
    )
