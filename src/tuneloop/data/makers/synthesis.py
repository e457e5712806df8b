"""New rows written by a model, after the pattern of real ones."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import Field, field_validator, model_validator

from tuneloop.data.makers import Around, MakerBase
from tuneloop.data.makers.asking import Asker, Local, Query
from tuneloop.data.makers.endpoint import Endpoint, EndpointConfig
from tuneloop.data.makers.examples import Example, Kind, draw, pools, shown
from tuneloop.data.makers.novelty import Novelty
from tuneloop.data.makers.rows import christen
from tuneloop.data.makers.schema import check_schema
from tuneloop.data.makers.written import Rejected, Written, as_rows, parse
from tuneloop.data.steps.redact import Redact
from tuneloop.errors import ConfigError, need
from tuneloop.progress import log
from tuneloop.rundir import write_atomic

REJECTED_FILE = "rejected.jsonl"
_TEXT = {"type": "string", "minLength": 1}
_CLASSIFIED = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"], "additionalProperties": False}
_ANSWERED = {
    "type": "object",
    "properties": {"prompt": _TEXT, "response": _TEXT},
    "required": ["prompt", "response"],
    "additionalProperties": False,
}
PROMPT = (
    "Write {n} new training examples{class}, in the language, style and length of these real ones, but about other things "
    "and in other words:\n\n{examples}\n\nAnswer with a JSON array of {n} objects and nothing else. Each object must fit "
    "this JSON schema:\n{schema}"
)
_FOR_A_CLASS = " of the class {label} (the classes are: {labels})"


class _Asked(NamedTuple):
    """One request: for which kind of rows, with which examples."""

    kind: Kind
    examples: tuple[Example, ...]
    query: Query


class Synthesise(MakerBase):
    """Asks a model for new rows, class by class, and takes those that are valid, long enough, new, and free of personal data.

    Requests are numbered and their examples drawn from seed and number, so a run that was killed asks the same again and
    finds its answers on the disk. What is refused stands with its reason in ``rejected.jsonl``.
    """

    name: ClassVar[str] = "synthesise"

    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible endpoint; empty: the model of the project is asked."""

    rows: int | Mapping[str, int] = 50
    """New rows for each class, or {class: number}. Rows without a class count as one class named ''."""

    prompt: str = PROMPT
    """What is asked, with {examples}, {schema}, {n} (how many), {label}, {labels} and {class} (a phrase, '' without one)."""

    system: str | None = None
    """System prompt of the request."""

    json_schema: Mapping[str, Any] | None = None
    """What one row must look like: text, or prompt and response (and reasoning); other properties become ``fields``."""

    examples: int = Field(default=5, ge=1, le=50)
    """Real rows shown in each request."""

    rows_per_request: int = Field(default=5, ge=1, le=100)
    """New rows asked for in one request."""

    attempts: float = Field(default=3.0, ge=1.0)
    """At most this many times as many requests as would do if every row were taken."""

    min_characters: int = Field(default=8, ge=1)
    """A row whose question is shorter is refused; Chinese characters count twice."""

    similar: float = Field(default=0.8, gt=0.0, le=1.0)
    """Jaccard similarity, as near_duplicates measures it, from which a row counts as one that is there already."""

    batch: int = Field(default=64, ge=1)
    """Requests that are put to the model of the project at once."""

    @field_validator("rows")
    @classmethod
    def _positive(cls, value: int | Mapping[str, int]) -> int | Mapping[str, int]:
        numbers = value.values() if isinstance(value, Mapping) else [value]
        if not numbers or min(numbers) < 1:
            raise ValueError("must be at least 1 for each class\nhint: rows: 50, or rows: {card_lost: 100}")
        return value

    @field_validator("prompt")
    @classmethod
    def _holes(cls, value: str) -> str:
        if missing := [hole for hole in ("{examples}", "{schema}", "{n}") if hole not in value]:
            raise ValueError(f"the prompt lacks {', '.join(missing)}\nhint: leave prompt out to use the built-in one")
        return value

    @field_validator("json_schema")
    @classmethod
    def _usable(cls, value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if value is not None:
            check_schema(value)
            names = set(value.get("properties", {}))
            if "text" not in names and not {"prompt", "response"} <= names:
                raise ValueError(
                    "a row needs the property text, or prompt and response\nhint: properties: {text: {type: string}}"
                )
        return value

    @model_validator(mode="after")
    def _asks_for_something(self) -> Synthesise:
        if self.rows_per_request > 1 and "array" not in self.prompt and self.prompt != PROMPT:
            raise ValueError("the prompt does not ask for a JSON array\nhint: say so in it, or set rows_per_request: 1")
        return self

    @property
    def asks(self) -> bool:
        return self.endpoint is None

    def ready(self, *, can_ask: bool) -> None:
        if self.endpoint is not None:
            need("httpx", "synthesis")
            self.endpoint.key()
        elif not can_ask:
            raise ConfigError(
                "synthesise needs a model to ask",
                where="data.makers synthesise",
                hint="name an endpoint: {url: http://127.0.0.1:8000/v1, model: NAME}, or model.name",
            )

    def schema_of(self, kind: Kind) -> Mapping[str, Any]:
        return self.json_schema or (_CLASSIFIED if kind.classified else _ANSWERED)

    def make(self, parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
        found = pools(parts, around.seed)
        asker: Asker = Endpoint(self.endpoint, around) if self.endpoint else Local(around, self.batch)
        wanted = self._quotas(found)
        novelty = Novelty(parts, self.similar) if wanted else None
        rejected: list[Rejected] = []
        taken: Counter[Kind] = Counter()
        asked: Counter[Kind] = Counter()
        while requests := self._requests(wanted, taken, asked, found, around):
            assert novelty is not None
            answers = asker([request.query for request in requests])
            written: list[Written] = []
            for request, answer in zip(requests, answers, strict=True):
                rows, bad = parse(answer, request.kind, request.examples, self.schema_of(request.kind))
                written += rows
                rejected += bad
            new = self._judge(written, wanted, taken, novelty, rejected, around)
            lines = (json.dumps(r._asdict(), ensure_ascii=False) + "\n" for r in rejected)
            write_atomic(around.cache / REJECTED_FILE, "".join(lines))
            if new.height:
                yield new
        self._tell(wanted, taken, rejected, asker, around)

    def _quotas(self, found: Mapping[Kind, Sequence[Example]]) -> dict[Kind, int]:
        """How many new rows of each kind, by name. A class with both kinds of rows is asked for as the commoner one."""
        commonest: dict[str, Kind] = {}
        for kind in sorted(found, key=lambda k: (-len(found[k]), k)):
            commonest.setdefault(kind.label, kind)
        if isinstance(self.rows, Mapping):
            for label in self.rows:
                if label not in commonest:
                    near = difflib.get_close_matches(label, commonest, 1, 0.5)
                    raise ConfigError(
                        f"no training row of class {label!r} can be shown as an example",
                        where="data.makers synthesise rows",
                        hint=f"did you mean {near[0]!r}?"
                        if near
                        else f"classes: {', '.join(sorted(commonest)[:12]) or 'none'}",
                    )
            return {commonest[label]: self.rows[label] for label in sorted(self.rows)}
        return {commonest[label]: self.rows for label in sorted(commonest)}

    def _requests(
        self,
        wanted: Mapping[Kind, int],
        taken: Mapping[Kind, int],
        asked: Counter[Kind],
        found: Mapping[Kind, Sequence[Example]],
        around: Around,
    ) -> list[_Asked]:
        """The next round: as many requests as would do if all their rows were taken, within the limit."""
        out = []
        for kind, rows in wanted.items():
            limit = math.ceil(math.ceil(rows / self.rows_per_request) * self.attempts)
            needed = math.ceil((rows - taken[kind]) / self.rows_per_request)
            for _ in range(min(needed, limit - asked[kind])):
                asked[kind] += 1
                examples = draw(found[kind], self.examples, around.seed, f"{kind.label}\x00{asked[kind]}")
                out.append(_Asked(kind, tuple(examples), self._query(kind, examples, asked[kind], around)))
        return out

    def _query(self, kind: Kind, examples: Sequence[Example], number: int, around: Around) -> Query:
        schema = self.schema_of(kind)
        lines = [json.dumps(shown(e, kind, schema["properties"]), ensure_ascii=False) for e in examples]
        holes = {
            "{class}": _FOR_A_CLASS if kind.label else "",
            "{label}": kind.label,
            "{labels}": ", ".join(sorted(around.labels)),
            "{n}": str(self.rows_per_request),
            "{schema}": json.dumps(schema, ensure_ascii=False),
            "{examples}": "\n".join(lines),  # last: what stands in a row is not a hole
        }
        text = self.prompt
        for hole, value in holes.items():
            text = text.replace(hole, value)
        system = ({"role": "system", "content": self.system},) if self.system else ()
        return Query((*system, {"role": "user", "content": text}), number)

    def _judge(
        self,
        written: Sequence[Written],
        wanted: Mapping[Kind, int],
        taken: Counter[Kind],
        novelty: Novelty,
        rejected: list[Rejected],
        around: Around,
    ) -> pl.DataFrame:
        """Redact, refuse what is short or not new, and take rows up to each quota."""
        masked = Redact().apply(as_rows(written))
        problems = [self._too_short(w) for w in written]
        long_enough = [k for k, problem in enumerate(problems) if problem is None]
        for k, problem in zip(long_enough, novelty.problems(masked[long_enough]), strict=True):
            problems[k] = problem
        kept = []
        for k, (one, problem) in enumerate(zip(written, problems, strict=True)):
            if problem is None and taken[one.kind] >= wanted[one.kind]:
                problem = "not needed: the class has its rows"
            if problem is None:
                taken[one.kind] += 1
                kept.append(k)
            else:
                rejected.append(Rejected(one.kind.label, problem, one.raw))
        new = christen(masked[kept], around.name, taken.total() - len(kept) + 1)
        novelty.add(new)
        return new

    def _too_short(self, one: Written) -> str | None:
        said = one.messages[0]["content"] or ""
        size = sum(2 if "\u4e00" <= c <= "\u9fff" else 1 for c in said.strip())
        return None if size >= self.min_characters else f"too short: {len(said)} characters"

    def _tell(
        self,
        wanted: Mapping[Kind, int],
        taken: Mapping[Kind, int],
        rejected: Sequence[Rejected],
        asker: Asker,
        around: Around,
    ) -> None:
        for kind, rows in wanted.items():
            if taken[kind] < rows:
                log(
                    f"warning: {around.name}: {taken[kind]:,} of {rows:,} rows{f' of {kind.label}' if kind.label else ''}; "
                    f"why others were refused stands in {around.cache / REJECTED_FILE}"
                )
        reasons = Counter(r.reason.partition(":")[0].replace(" ", "_").replace("-", "_") for r in rejected)
        around.report(
            made=sum(taken.values()),
            **{f"refused_{reason}": n for reason, n in sorted(reasons.items())},
            **asker.bill(),
        )
