"""Configuration of logs and readiness."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.config import Config


class ObserveConfig(Config):
    """What the gateway says about itself, beside its metrics."""

    logs: Literal["auto", "json", "text", "off"] = "auto"
    """A line to standard error for every request: JSON, or readable text. auto takes text on a terminal, else JSON."""
    log_bodies: bool = False
    """Put prompts and answers into the log, too. They may hold what nobody should keep: leave it off in production."""
    confidence_every_s: float = Field(5.0, ge=0)
    """Of all calls whose client asks for no probabilities, one in so many seconds is asked for them all the same, for the
    metric of confidence. They cost llama.cpp and OpenVINO a tenth of their speed. 0 measures every answer."""
    unready_after_s: float = Field(20.0, gt=0)
    """/readyz answers 503 (stalled) when the engine holds requests and has made no token for this long. The engine is
    killed later, after engine.stall_timeout_s."""
