"""The Step seam: frame -> frame. A step never removes a row; it writes a reason, and the runner splits and counts.

Third parties register a class under the entry point group ``tuneloop.steps``; its fields are its options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from tuneloop.config import Config
from tuneloop.data.registry import Registry
from tuneloop.rundir import named_hashes

if TYPE_CHECKING:
    import polars as pl

    from tuneloop.data.config import StepConfig

GROUP = "tuneloop.steps"

BUILT_IN: Mapping[str, str] = {
    "repair": "tuneloop.data.steps.text:Repair",
    "html": "tuneloop.data.steps.markup:StripHtml",
    "whitespace": "tuneloop.data.steps.text:Whitespace",
    "empty": "tuneloop.data.steps.complete:Empty",
    "truncated": "tuneloop.data.steps.complete:Truncated",
    "redact": "tuneloop.data.steps.redact:Redact",
    "chinese": "tuneloop.data.steps.chinese:Chinese",
    "length": "tuneloop.data.steps.length:Length",
    "repetition": "tuneloop.data.steps.repetition:Repetition",
    "symbols": "tuneloop.data.steps.symbols:Symbols",
    "language": "tuneloop.data.steps.language:Language",
    "toxicity": "tuneloop.data.steps.toxicity:Toxicity",
    "perplexity": "tuneloop.data.steps.perplexity:Perplexity",
    "labels": "tuneloop.data.steps.labels:Labels",
    "mislabelled": "tuneloop.data.steps.mislabelled:Mislabelled",
    "exact_duplicates": "tuneloop.data.steps.exact:ExactDuplicates",
    "near_duplicates": "tuneloop.data.steps.near:NearDuplicates",
    "merge_rare_classes": "tuneloop.data.steps.rare:MergeRareClasses",
    "semantic_duplicates": "tuneloop.data.steps.semantic:SemanticDuplicates",
}


@runtime_checkable
class Step(Protocol):
    """One cleaning step.

    The frame has the columns of ``tuneloop.data.frame.SCHEMA`` and living rows only. The step returns the same rows in
    the same order: it may change ``messages`` (noting ``history``), and it drops a row by writing ``dropped_step`` and
    ``dropped_reason`` (``category: detail``; rows are counted by category). Applied twice it changes nothing more.
    """

    name: ClassVar[str]
    notes: Sequence[str]
    """Warnings of the last application, for the report."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame: ...


@runtime_checkable
class WholeStep(Step, Protocol):
    """A step that compares rows with each other.

    Nobody ever holds all rows. The runner asks for a digest of each part of the data, keeps the digests on disk, and asks
    for one decision about all of them; ``apply`` does both on a frame.
    """

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        """What ``decide`` needs to know: a small frame with one row for each row given, in the same order."""
        ...

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        """Judge all rows.

        Args:
            digests: All digests one below the other, with ``at`` (Int64, from 0) in front. Collect the columns that are
                needed, when they are needed: there may be millions of rows.

        Returns:
            Columns of ``tuneloop.data.frame.VERDICTS``, only the rows that something is decided about, sorted by ``at``;
            a column ``label`` (null: as it was) gives rows a new class.
        """
        ...


class StepBase(Config):
    """A step whose fields are its options, and that judges each row by itself."""

    name: ClassVar[str] = ""

    @property
    def notes(self) -> Sequence[str]:
        return ()

    def inputs(self) -> dict[str, str]:
        """What the outcome depends on besides rows and options: hashes of files and folders that the options name."""
        return named_hashes(self)

    def prepare(self) -> None:
        """Look for what the options name (a model, a key), so that a run fails before it begins."""


class WholeBase(StepBase):
    """A step that compares rows with each other: ``digest`` and ``decide`` are its own."""

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        raise NotImplementedError

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        raise NotImplementedError

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        from tuneloop.data.frame import settle

        digests = self.digest(frame).with_row_index("at").with_columns(pl.col("at").cast(pl.Int64))
        return settle(frame, self.name, self.decide(digests.lazy()))


_REGISTRY = Registry("step", GROUP, BUILT_IN)
names, class_of, check = _REGISTRY.names, _REGISTRY.class_of, _REGISTRY.check


def create(name: str, options: Mapping[str, Any]) -> Step:
    """Build a step.

    Raises:
        ConfigError: No such step, or an option it does not have.
    """
    made: Step = _REGISTRY.create(name, options)
    return made


def build(steps: Sequence[StepConfig]) -> Iterator[Step]:
    for step in steps:
        yield create(step.name, step.options)
