"""Personal data -> type tags, with the spans kept in the ledger."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import field_validator

from tuneloop.data import personal
from tuneloop.data.frame import SCHEMA, SPAN, rewrite
from tuneloop.data.steps import StepBase

_CANDIDATE = r"@|[0-9](?:[ ()./+\-]{0,2}[0-9A-Za-z]){6}"


class Redact(StepBase):
    """Replaces e-mail addresses, phone numbers, card numbers, 身份证 numbers and IBANs by ``[EMAIL]``, ``[PHONE]`` ..."""

    name: ClassVar[str] = "redact"

    types: tuple[str, ...] = personal.TYPES
    """Which types: EMAIL, ID_CARD, IBAN, CARD, PHONE."""

    regions: tuple[str, ...] = personal.REGIONS
    """Countries (ISO 3166 codes) whose national phone numbers are recognised without a country code."""

    @field_validator("types")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(value) - set(personal.TYPES):
            raise ValueError(f"{sorted(unknown)} not known, choose from {', '.join(personal.TYPES)}")
        return value

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        seen: dict[str, list[personal.Span]] = {}

        def change(texts: pl.Series) -> pl.Series:
            suspects = texts.filter(texts.str.contains(_CANDIDATE)).unique()
            spans = {text: found for text in suspects if (found := personal.find(text, self.types, self.regions))}
            seen.update(spans)
            if not spans:
                return texts
            return texts.replace(list(spans), [personal.mask(text, found) for text, found in spans.items()])

        before = frame["history"].list.len()
        changed = rewrite(frame, self.name, change)
        return _note_spans(changed, before, seen) if seen else changed


def _note_spans(frame: pl.DataFrame, before: pl.Series, seen: dict[str, list[personal.Span]]) -> pl.DataFrame:
    """Fill ``redactions`` from the changes that this application added to the history."""
    spans = []
    for history, old, known in zip(frame["history"], before, frame["redactions"], strict=True):
        fresh = [
            {"message": change["message"], "type": s.type, "start": s.start, "end": s.end}
            for change in (history.to_list()[old:] if len(history) > old else [])
            for s in seen[change["before"]]
        ]
        spans.append([*known.to_list(), *fresh])
    return frame.with_columns(pl.Series("redactions", spans, dtype=pl.List(SPAN))).select(list(SCHEMA))
