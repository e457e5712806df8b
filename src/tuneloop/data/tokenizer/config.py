"""The ``tokenizer`` section of a project file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tuneloop.config import Config, ConfigPath

BYTES = 256


class TokenizerConfig(Config):
    """A tokenizer trained on one's own text."""

    aliases: ClassVar[Mapping[str, str]] = {"type": "model", "path": "sources", "base": "compare_with"}

    sources: tuple[ConfigPath, ...] = ()
    """Folders of finished data stages (their training split is read), raw files or folders; empty: the project's data."""

    model: Literal["bpe", "wordpiece"] = "bpe"
    """bpe: byte-level, as GPT, Llama, Qwen and DeepSeek have it: no text is unknown. wordpiece: as BERT has it."""

    vocab_size: int = Field(default=32_000, ge=BYTES + 1)
    """Tokens in all, special ones included."""

    min_frequency: int = Field(default=2, ge=1)
    """A pair of tokens is merged only if it stands so often in the text."""

    max_token_characters: int = Field(default=24, ge=1)
    """No token is longer (bpe; a Chinese character counts as three): no vocabulary wasted on rules and boilerplate."""

    lowercase: bool = False
    """Fold letter case (wordpiece only: bpe gives back what it was given)."""

    special_tokens: tuple[str, ...] = ()
    """Further tokens that are never cut, e.g. ``<tool>``; markers of the chat template are found by themselves."""

    eos_token: str | None = None
    """Ends a text; empty: ``<|im_end|>`` with the chatml template, else ``<|endoftext|>`` (bpe) or ``[SEP]`` (wordpiece)."""

    pad_token: str | None = None
    """Fills short rows; empty: ``<|pad|>`` (bpe) or ``[PAD]`` (wordpiece). Never the same as ``eos_token``."""

    chat_template: Literal["chatml"] | ConfigPath | None = None
    """How conversations become text: chatml, or a file with a Jinja template; empty: no template."""

    compare_with: ConfigPath | None = None
    """A tokenizer to stand beside in the report: ``tokenizer.json``, its folder, or an installed package that holds one."""

    @field_validator("sources", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if value is not None and not isinstance(value, list | tuple) else value or ()

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        if self.lowercase and self.model == "bpe":
            raise ValueError("lowercase needs the wordpiece model\nhint: bpe gives back every text as it was")
        if self.eos_token is not None and self.eos_token == self.pad_token:
            raise ValueError(
                "eos_token and pad_token are the same: a trained model would not learn to stop"
                "\nhint: leave pad_token empty"
            )
        return self
