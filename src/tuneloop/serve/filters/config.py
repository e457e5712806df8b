"""Which filter does what, on which side."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tuneloop.config import Config, ConfigPath
from tuneloop.data import personal

Action = Literal["off", "flag", "mask", "block"]
"""flag: counted and marked in the body. mask: replaced. block: the request is refused, the answer ends, with content_filter."""


class PersonalDataConfig(Config):
    """Numbers, addresses and keys of people, found as the data room finds them. Names of persons are not found: they need
    the whole sentence, and a stream cannot wait for it."""

    input: Action = "off"
    """What happens to a prompt."""
    output: Action = "off"
    """What happens to an answer: content, reasoning, arguments of calls, logprobs."""
    types: tuple[str, ...] = personal.TYPES
    """Which kinds count."""
    regions: tuple[str, ...] = personal.REGIONS
    """ISO 3166 codes of countries whose national telephone numbers are known without a country code."""
    private_ips: bool = True
    """Also addresses of private networks."""

    @field_validator("types")
    @classmethod
    def _known(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(types) - set(personal.TYPES)):
            raise ValueError(f"no such type: {', '.join(unknown)}\nhint: there are {', '.join(personal.TYPES)}")
        return types


class UnsafeConfig(Config):
    """Unsafe sentences in English and Chinese: listed words and phrases, and a small classifier of insults."""

    input: Action = "off"
    """What happens to a prompt; mask replaces the sentence by [UNSAFE]."""
    output: Action = "off"
    """What happens to an answer. mask and block hold every sentence back until it has ended."""
    built_in_words: bool = True
    """Use the short lists that ship with Tuneloop."""
    words: tuple[ConfigPath, ...] = ()
    """More lists: UTF-8 files with one word or phrase a line; # begins a comment."""
    classifier: bool = True
    """Also judge by the linear models of the data room's toxicity step."""
    threshold_zh: float = Field(0.95, gt=0, le=1)
    """Probability from which a Chinese sentence counts as an insult. Lower ones find more and are wrong more often:
    ``benchmarks/filters.py`` measures both."""
    threshold_en: float = Field(0.95, gt=0, le=1)
    """Probability from which an English sentence counts as an insult."""


class PromptInjectionConfig(Config):
    """Text in prompts and tool results that tries to give the model orders. Best effort: it knows the common forms, and a
    determined attacker writes another one. Do not let it guard anything that must not happen."""

    input: Literal["off", "flag", "block"] = "off"
    """What happens to a prompt."""


class FiltersConfig(Config):
    """What is looked for in prompts and answers. All of it is off unless asked for."""

    personal_data: PersonalDataConfig = PersonalDataConfig()
    """Personal data."""
    unsafe: UnsafeConfig = UnsafeConfig()
    """Insults, and words that nobody wants to read."""
    prompt_injection: PromptInjectionConfig = PromptInjectionConfig()
    """Orders that come in with data."""
