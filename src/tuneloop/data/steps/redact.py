"""Personal data -> type tags or pseudonyms, with the spans kept in the ledger."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import field_validator, model_validator

from tuneloop.config import ConfigPath
from tuneloop.data import personal
from tuneloop.data.frame import SCHEMA, SPAN, rewrite
from tuneloop.data.personal import hints, names
from tuneloop.data.personal.masker import Replace, replacement
from tuneloop.data.steps import StepBase
from tuneloop.errors import ConfigError


class Redact(StepBase):
    """Replaces e-mail addresses, phone numbers, card numbers, 身份证 and more by ``[EMAIL]``, ``[PHONE]`` ... or pseudonyms.

    With ``mask: pseudonym`` a value becomes the same value of the same shape wherever it stands, and nobody's. The key that
    decides which one is read from the environment, never from the project file.
    """

    name: ClassVar[str] = "redact"

    types: tuple[str, ...] = personal.TYPES
    """Which types: those of ``tuneloop.data.personal.TYPES``, and NAME, ADDRESS, ORGANIZATION (these need ``names_model``)."""

    regions: tuple[str, ...] = personal.REGIONS
    """Countries (ISO 3166 codes) whose national phone numbers are recognised without a country code."""

    mask: Literal["tag", "pseudonym"] = "tag"
    """What stands in place of a value: its type as a tag, or a pseudonym."""

    key_variable: str = "TUNELOOP_PSEUDONYM_KEY"
    """The environment variable that holds the key of the pseudonyms, at least 16 characters."""

    private_ips: bool = True
    """Also IP addresses of private networks, such as 192.168.0.7."""

    names_model: ConfigPath | None = None
    """Folder of a spaCy model that knows names, such as en_core_web_lg or zh_core_web_lg unpacked; nothing is downloaded."""

    @field_validator("types")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = (*personal.TYPES, *names.TYPES)
        if unknown := set(value) - set(known):
            raise ValueError(f"{sorted(unknown)} not known, choose from {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _a_model_for_names(self) -> Redact:
        wanted = [kind for kind in self.types if kind in names.TYPES]
        if wanted and self.names_model is None:
            raise ValueError(f"{', '.join(wanted)}: names are found by a spaCy model; give its folder as names_model")
        return self

    def inputs(self) -> dict[str, str]:
        """Also four digits of the key's hash: another key is noticed, and nobody learns it from them."""
        key = os.environ.get(self.key_variable, "") if self.mask == "pseudonym" else ""
        return super().inputs() | ({"key": hashlib.sha256(key.encode()).hexdigest()[:4]} if key else {})

    def prepare(self) -> None:
        """Fetch what the options need, so that a run fails before it begins.

        Raises:
            ConfigError: No key, a key too short, or no model in the folder.
            MissingExtraError: presidio-analyzer is not installed.
        """
        self._replacement()
        self._names()

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        seen: dict[str, list[personal.Span]] = {}
        replace, find, by_model = self._replacement(), self._finder(), self._names() is not None

        def change(texts: pl.Series) -> pl.Series:
            suspects = (texts if by_model else texts.filter(texts.str.contains(hints.PATTERN))).unique()
            spans = {text: found for text in suspects if (found := find(text))}
            seen.update(spans)
            if not spans:
                return texts
            masked = [personal.mask(text, found, replace=replace) for text, found in spans.items()]
            return texts.replace(list(spans), masked)

        def change_json(texts: pl.Series) -> pl.Series:
            masked: dict[str, str] = {}
            for text in texts.drop_nulls().unique():
                spans: list[personal.Span] = []
                masked[text] = mask_json(text, find, replace, spans)
                seen[text] = spans
            changes = {old: new for old, new in masked.items() if old != new}
            return texts.replace(list(changes), list(changes.values())) if changes else texts

        before = frame["history"].list.len()
        changed = rewrite(frame, self.name, change, change_json).with_columns(tools=change_json(frame["tools"]))
        return _note_spans(changed, before, seen) if seen else changed

    def mask_fields(self, fields: pl.Series) -> pl.Series:
        """Kept columns and entities (JSON text, or null), masked like the text. They are masked when records are written:
        until then groups and strata are told apart by their true values."""
        replace, find = self._replacement(), self._finder()
        given = fields.drop_nulls().unique()
        masked = {text: mask_json(text, find, replace, []) for text in given}
        changes = {old: new for old, new in masked.items() if old != new}
        return fields.replace(list(changes), list(changes.values())) if changes else fields

    def _finder(self) -> Callable[[str], list[personal.Span]]:
        names_ = self._names()

        def find(text: str) -> list[personal.Span]:
            spans = personal.find(text, self.types, self.regions, self.private_ips)
            return names.add(spans, names_.find(text, self.types)) if names_ else spans

        return find

    def _replacement(self) -> Replace:
        if self.mask == "tag":
            return replacement(None)
        key = os.environ.get(self.key_variable, "")
        if not key:
            raise ConfigError(
                f"mask: pseudonym needs a key in the environment variable {self.key_variable}",
                where="data.steps redact",
                hint=f"export {self.key_variable}=$(openssl rand -hex 32), and keep it: another key gives other pseudonyms",
            )
        return replacement(key.encode())

    def _names(self) -> names.Names | None:
        if not set(self.types) & set(names.TYPES):
            return None
        assert self.names_model is not None, "the validator asks for it"
        return names.load(self.names_model)


def mask_json(
    text: str, find: Callable[[str], list[personal.Span]], replace: Replace, found: list[personal.Span]
) -> str:
    """JSON text with the personal data in its strings and numbers masked; keys stay. JSON inside strings is masked too.

    Args:
        found: Receives the spans, each counted in its own string.
    """

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                return json.dumps(walk(json.loads(value)), ensure_ascii=False)
            except ValueError:
                pass  # it only looks like JSON: plain text
        plain = str(value)
        spans = find(plain)
        found.extend(spans)
        return personal.mask(plain, spans, replace=replace) if spans else value

    before = json.loads(text)
    after = walk(before)
    return json.dumps(after, ensure_ascii=False) if found and after != before else text


def _note_spans(frame: pl.DataFrame, before: pl.Series, seen: dict[str, list[personal.Span]]) -> pl.DataFrame:
    """Fill ``redactions`` from the changes that this application added to the history."""
    rows = frame.select("history", "redactions", at=pl.int_range(pl.len())).filter(frame["history"].list.len() > before)
    noted = []
    for row in rows.to_dicts():
        fresh = [
            {"message": change["message"], "type": s.type, "start": s.start, "end": s.end}
            for change in row["history"][before[row["at"]] :]
            for s in seen[change["before"]]
        ]
        noted.append([*row["redactions"], *fresh])
    new = rows.select("at", noted=pl.Series(noted, dtype=pl.List(SPAN)))
    joined = frame.with_columns(at=pl.int_range(pl.len())).join(new, on="at", how="left", maintain_order="left")
    return joined.with_columns(redactions=pl.coalesce("noted", "redactions")).select(list(SCHEMA))
