"""What can be set about compression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from tuneloop.config import Config


class CompressConfig(Config):
    """One compression: merge, write GGUF, prove that it is still the same model."""

    aliases: ClassVar[Mapping[str, str]] = {"quantization": "quantisation", "export_quantization_bit": "quantisation"}

    quantisation: Literal["q8_0", "f16", "f32"] = "q8_0"
    """Weight format of the GGUF: 8-bit blocks of 32 with one scale each, half or full precision."""

    parity_prompts: int = Field(64, ge=1)
    """How many prompts of the test split the compressed weights are compared on."""

    max_mean_kl: float = Field(0.01, gt=0)
    """Parity fails above this mean Kullback-Leibler divergence (nats per token) from the uncompressed model."""

    min_greedy_agreement: float = Field(0.97, gt=0, le=1)
    """Parity fails when the most likely next token agrees on a smaller share of positions."""
