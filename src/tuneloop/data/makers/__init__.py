"""The Maker seam: training rows -> new rows. A maker never changes a row, and never sees validation or test rows.

    rows        what every derived row has in common: parents, origin, id, seeded draws
    edits, protect, entities    changes of a text that leave code, numbers, tags and entity values alone
    balance, typos, synonyms, templates, back_translation, synthesis    the makers

Third parties register a class under the entry point group ``tuneloop.makers``; its fields are its options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from tuneloop.config import Config
from tuneloop.data.registry import Registry
from tuneloop.rundir import named_hashes

if TYPE_CHECKING:
    import polars as pl

    from tuneloop.data.config import MakerConfig

GROUP = "tuneloop.makers"

BUILT_IN: Mapping[str, str] = {
    "balance": "tuneloop.data.makers.balance:Balance",
    "typos": "tuneloop.data.makers.typos:Typos",
    "synonyms": "tuneloop.data.makers.synonyms:Synonyms",
    "templates": "tuneloop.data.makers.templates:Templates",
    "back_translation": "tuneloop.data.makers.back_translation:BackTranslation",
    "synthesise": "tuneloop.data.makers.synthesis:Synthesise",
}

Ask = Callable[[Sequence[Sequence[Mapping[str, str]]]], Sequence[str]]
"""Conversations ({role, content} each) -> one answer each, in order. Whoever has an Engine gives it."""


def _unheard(**counts: Any) -> None:
    """The report of somebody who does not listen."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a maker is given besides rows.

    ``seed`` decides every draw; ``labels`` are the classes of the training split with their row counts; ``cache`` is a
    folder that survives a killed run; ``ask`` puts questions to a model and ``asked`` names that model (an answer of
    another model is not taken from the cache); ``report`` takes the counts of one maker, once, when it is done.
    ``held_out`` are validation and test rows, iterable more than once: a model may have written one of them by chance, so
    its rows are compared with them, and nothing else is done with them.
    ``name`` is how this maker's rows are called; ``run`` fills it in.
    """

    seed: int
    labels: Mapping[str, int]
    cache: Path
    ask: Ask | None = None
    asked: str = ""
    report: Callable[..., None] = _unheard
    name: str = ""
    held_out: Iterable[pl.DataFrame] = ()


@runtime_checkable
class Maker(Protocol):
    """Makes new rows from training rows.

    New rows have the columns of ``tuneloop.data.frame.SCHEMA``, ``parents`` (ids of the rows they were made from), the
    ``origin`` ``name:running-number``, and an id from ``record_id``. Which rows and which changes depends on the seed and
    on each row's id, never on how the rows are cut into parts.
    """

    name: ClassVar[str]

    @property
    def asks(self) -> bool:
        """Whether it puts questions to ``Around.ask``."""
        ...

    def ready(self, *, can_ask: bool) -> None:
        """Say before anything is read what is missing: a file, a key, an extra, somebody to ask.

        Raises:
            TuneloopError: With a hint that ends it.
        """
        ...

    def make(self, parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
        """Yield frames of new rows. ``parts`` may be iterated more than once; all of them together may not fit in memory."""
        ...

    def surplus(self, rows: pl.DataFrame, seed: int) -> pl.DataFrame:
        """Training rows that should go.

        Args:
            rows: id and label of every training row.

        Returns:
            id and reason (``category: detail``) of those that go.
        """
        ...


class MakerBase(Config):
    """A maker whose fields are its options."""

    name: ClassVar[str] = ""

    @property
    def asks(self) -> bool:
        return False

    def inputs(self) -> dict[str, str]:
        """Hashes of files and folders that the options name."""
        return named_hashes(self)

    def ready(self, *, can_ask: bool) -> None:
        """Nothing is missing."""

    def make(self, parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
        raise NotImplementedError

    def surplus(self, rows: pl.DataFrame, seed: int) -> pl.DataFrame:
        import polars as pl

        return pl.DataFrame(schema={"id": pl.String, "reason": pl.String})


_REGISTRY = Registry("maker", GROUP, BUILT_IN)
names, class_of, check = _REGISTRY.names, _REGISTRY.class_of, _REGISTRY.check


def create(name: str, options: Mapping[str, Any]) -> Maker:
    """Build a maker.

    Raises:
        ConfigError: No such maker, or an option it does not have.
    """
    made: Maker = _REGISTRY.create(name, options)
    return made


def build(makers: Sequence[MakerConfig], *, can_ask: bool) -> list[tuple[str, Maker]]:
    """Makers with the names of their rows: of two ``templates`` the second is called ``templates-2``.

    Raises:
        TuneloopError: What a maker needs is not there.
    """
    seen: Counter[str] = Counter()
    out = []
    for config in makers:
        maker = create(config.name, config.options)
        maker.ready(can_ask=can_ask)
        seen[maker.name] += 1
        out.append((maker.name if seen[maker.name] == 1 else f"{maker.name}-{seen[maker.name]}", maker))
    return out


def run(makers: Sequence[MakerConfig], parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
    """New rows of all makers, one maker after the other; each sees the same real rows and none of the new ones.

    Args:
        parts: Frames of training rows after cleaning and splitting, in order; iterated at least once a maker, so it
            must begin anew each time (a list, or an object that reads files; not a generator).
        around: ``report`` is called as ``report(maker=name, **counts)``; each maker has a folder below ``cache``.

    Raises:
        TuneloopError: What a maker needs is not there; nothing has been made then.
        RuntimeError: A maker breaks the contract (a bug of that maker).
    """
    if iter(parts) is parts:
        raise TypeError(
            "the parts of the training split are read more than once: give a list or an object, not a generator"
        )
    return _run(build(makers, can_ask=around.ask is not None), parts, around)


def _run(makers: Sequence[tuple[str, Maker]], parts: Iterable[pl.DataFrame], around: Around) -> Iterator[pl.DataFrame]:
    for name, maker in makers:
        mine = replace(around, name=name, cache=around.cache / name, report=partial(around.report, maker=name))
        for frame in maker.make(parts, mine):
            _hold_to_contract(frame, name)
            yield frame


def _hold_to_contract(frame: pl.DataFrame, name: str) -> None:
    from tuneloop.data.frame import SCHEMA

    if dict(frame.schema) != dict(SCHEMA):
        raise RuntimeError(f"maker {name!r} must yield the columns of a data frame")
    if not (frame["parents"].list.len() > 0).all() or not frame["origin"].str.starts_with(f"{name}:").all():
        raise RuntimeError(
            f"maker {name!r} must name the parents of each row, and call the rows {name}:1, {name}:2 ..."
        )


def surplus(makers: Sequence[MakerConfig], rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Training rows that the makers want dropped before anything is made.

    Args:
        rows: id and label (null without a class) of every training row.

    Returns:
        id and reason (``category: detail``); each row at most once.
    """
    import polars as pl

    gone = [pl.DataFrame(schema={"id": pl.String, "reason": pl.String})]
    for config in makers:
        found = create(config.name, config.options).surplus(rows, seed)
        gone.append(found)
        rows = rows.join(found, on="id", how="anti", maintain_order="left")
    return pl.concat(gone)
