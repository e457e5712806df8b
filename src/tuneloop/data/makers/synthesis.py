"""New rows written by a model, after the pattern of real ones."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import Field, field_validator

from tuneloop.data.makers import Around, MakerBase
from tuneloop.data.makers.asking import Answer, Asker, Local, Query
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

    def make(self, parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
        examples = pools(parts, around.seed)
        asker: Asker = Endpoint(self.endpoint, around) if self.endpoint else Local(around, self.batch)
        rounds = Rounds(
            self.quotas(examples), self, examples, Novelty([parts, around.held_out], self.similar), asker, around
        )
        while requests := rounds.requests():
            new = rounds.judge(requests, asker([request.query for request in requests]))
            if new.height:
                yield new
        rounds.tell()

    def quotas(self, found: Mapping[Kind, Sequence[Example]]) -> dict[Kind, int]:
        """How many new rows of each kind, by name. A class with both kinds of rows is asked for as the commoner one."""
        commonest: dict[str, Kind] = {}
        for kind in sorted(found, key=lambda k: (-len(found[k]), k)):
            commonest.setdefault(kind.label, kind)
        if not isinstance(self.rows, Mapping):
            return {commonest[label]: self.rows for label in sorted(commonest)}
        for label in self.rows:
            if label not in commonest:
                near = difflib.get_close_matches(label, commonest, 1, 0.5)
                known = f"classes: {', '.join(sorted(commonest)[:12]) or 'none'}"
                raise ConfigError(
                    f"no training row of class {label!r} can be shown as an example",
                    where="data.makers synthesise rows",
                    hint=f"did you mean {near[0]!r}?" if near else known,
                )
        return {commonest[label]: self.rows[label] for label in sorted(self.rows)}

    def schema_of(self, kind: Kind) -> Mapping[str, Any]:
        return self.json_schema or (_CLASSIFIED if kind.classified else _ANSWERED)

    def question(self, kind: Kind, examples: Sequence[Example], labels: Iterable[str]) -> tuple[dict[str, str], ...]:
        """The messages of one request."""
        schema = self.schema_of(kind)
        classes = ", ".join(sorted(labels))
        holes = {
            "class": f" of the class {kind.label} (the classes are: {classes})" if kind.label else "",
            "label": kind.label,
            "labels": classes,
            "n": str(self.rows_per_request),
            "schema": json.dumps(schema, ensure_ascii=False),
            "examples": "\n".join(
                json.dumps(shown(example, kind, schema["properties"]), ensure_ascii=False) for example in examples
            ),
        }
        text = re.sub(rf"\{{({'|'.join(holes)})\}}", lambda hole: holes[hole[1]], self.prompt)
        system = ({"role": "system", "content": self.system},) if self.system else ()
        return (*system, {"role": "user", "content": text})


class Request(NamedTuple):
    """One request: for which kind of rows, with which examples."""

    kind: Kind
    examples: tuple[Example, ...]
    query: Query


@dataclass
class Rounds:
    """Requests and their rows, round after round, until each class has its rows or its requests are used up."""

    wanted: Mapping[Kind, int]
    options: Synthesise
    examples: Mapping[Kind, Sequence[Example]]
    novelty: Novelty
    asker: Asker
    around: Around
    taken: Counter[Kind] = field(default_factory=Counter)
    asked: Counter[Kind] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    def requests(self) -> list[Request]:
        """The next round: as many requests as would do if all their rows were taken, within the limit."""
        out = []
        each = self.options.rows_per_request
        for kind, rows in self.wanted.items():
            limit = math.ceil(math.ceil(rows / each) * self.options.attempts)
            needed = math.ceil((rows - self.taken[kind]) / each)
            for _ in range(min(needed, limit - self.asked[kind])):
                self.asked[kind] += 1
                number = self.asked[kind]
                what = f"{kind.label}\x00{number}"
                examples = draw(self.examples[kind], self.options.examples, self.around.seed, what)
                question = self.options.question(kind, examples, self.around.labels)
                out.append(Request(kind, tuple(examples), Query(question, number)))
        return out

    def judge(self, requests: Sequence[Request], answers: Sequence[Answer]) -> pl.DataFrame:
        """Read the answers of a round, redact, refuse what is short or not new, and take rows up to each quota."""
        written: list[Written] = []
        for request, answer in zip(requests, answers, strict=True):
            rows, bad = parse(answer, request.kind, request.examples, self.options.schema_of(request.kind))
            written += rows
            self.rejected += bad
        masked = Redact().apply(as_rows(written))
        kept = self._take(written, self._problems(written, masked))
        lines = (json.dumps(rejected._asdict(), ensure_ascii=False) + "\n" for rejected in self.rejected)
        write_atomic(self.around.cache / REJECTED_FILE, "".join(lines))
        new = christen(masked[kept], self.around.name, self.taken.total() - len(kept) + 1)
        self.novelty.add(new)
        return new

    def _problems(self, written: Sequence[Written], masked: pl.DataFrame) -> list[str | None]:
        problems = [self._too_short(one) for one in written]
        long_enough = [k for k, problem in enumerate(problems) if problem is None]
        for k, problem in zip(long_enough, self.novelty.problems(masked[long_enough]), strict=True):
            problems[k] = problem
        return problems

    def _take(self, written: Sequence[Written], problems: Sequence[str | None]) -> list[int]:
        kept = []
        for k, (one, problem) in enumerate(zip(written, problems, strict=True)):
            if problem is None and self.taken[one.kind] >= self.wanted[one.kind]:
                problem = "not needed: the class has its rows"
            if problem is None:
                self.taken[one.kind] += 1
                kept.append(k)
            else:
                self.rejected.append(Rejected(one.kind.label, problem, one.raw))
        return kept

    def _too_short(self, one: Written) -> str | None:
        said = (one.messages[0]["content"] or "").strip()
        size = sum(2 if "\u4e00" <= c <= "\u9fff" else 1 for c in said)
        return None if size >= self.options.min_characters else f"too short: {len(said)} characters"

    def tell(self) -> None:
        """Report the counts, and warn of classes that stayed short."""
        file = self.around.cache / REJECTED_FILE
        for kind, rows in self.wanted.items():
            if self.taken[kind] < rows:
                what = f"{self.taken[kind]:,} of {rows:,} rows" + (f" of {kind.label}" if kind.label else "")
                log(f"warning: {self.around.name}: {what}; why others were refused stands in {file}")
        reasons = Counter(re.sub("[ -]", "_", rejected.reason.partition(":")[0]) for rejected in self.rejected)
        refused = {f"refused_{reason}": count for reason, count in sorted(reasons.items())}
        self.around.report(made=self.taken.total(), **refused, **self.asker.bill())
