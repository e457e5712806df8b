"""Rows whose class is most likely wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.data import confident
from tuneloop.data.ngrams import Array, draws, folded
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.parts import part
from tuneloop.data.steps.toxicity import Action
from tuneloop.data.steps.verdicts import examples, no_verdicts, verdicts
from tuneloop.progress import track

_BATCH_ROWS = 20_000
_FEWEST_ROWS = 100
_LABELLED = pl.col("label").is_not_null() & (pl.col("text") != "")


class Mislabelled(WholeBase):
    """Finds rows whose class a model, trained on the other rows, finds implausible; flags or drops them.

    Confident learning over the prompts (see ``tuneloop.data.confident``); needs the extra ``quality``. What it finds is to
    be read by somebody: close classes, and rare ways to say something, look like errors. On Banking77 with 5 % of the
    labels replaced at random it finds nine of ten, and six of seven that it finds were replaced. Classes with fewer rows than folds are not judged. With
    ``action: drop`` a second application finds others: the model has learned from cleaner rows.
    """

    name: ClassVar[str] = "mislabelled"

    action: Action = "flag"
    """flag: keep the rows and name them in the report; or drop."""

    folds: int = Field(default=5, ge=2)
    """A row is judged by a model that was trained on the other folds."""

    max_rows: int = Field(default=20_000, ge=100)
    """The models are trained on a sample of this many rows; all rows are judged. Time and memory follow this number."""

    seed: int = 0
    """Decides about sample and folds."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("id", "label").with_columns(
            draw=pl.Series(draws(frame["id"], self.seed)), text=folded(part(frame, "prompt").fill_null(""))
        )

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        labelled = digests.filter(_LABELLED)
        rows = int(labelled.select(pl.len()).collect().item())
        drawn = labelled.select("at", "label", "draw").sort("draw", "at").head(self.max_rows).collect()
        sizes = drawn["label"].value_counts().filter(pl.col("count") >= self.folds)
        classes, enough = sorted(sizes["label"]), int(sizes["count"].sum())
        if len(classes) < 2 or enough < _FEWEST_ROWS:
            if rows:
                self._notes.append(
                    f"not judged: {enough:,} rows in {len(classes)} classes of at least {self.folds} are too few to learn from"
                )
            return no_verdicts()
        chosen = drawn.filter(pl.col("label").is_in(classes))["at"]
        sample = labelled.filter(pl.col("at").is_in(chosen.implode())).collect().sort("at")
        return self._report(self._judge(sample, digests, classes, rows), rows)

    def _judge(self, sample: pl.DataFrame, digests: pl.LazyFrame, classes: list[str], rows: int) -> pl.DataFrame:
        """The doubtful rows: at, id, label, best, given_probability, best_probability."""
        encoder = confident.Encoder.fit(sample["text"], self.seed)
        vectors, labels, folds = encoder.encode(sample["text"]), _codes(sample["label"], classes), self._folds(sample)
        models = []
        probabilities = np.zeros((len(labels), len(classes)), dtype=np.float32)
        for k in track(range(self.folds), "looking for wrong labels", unit="folds"):
            models.append(confident.fit_classifier(vectors[folds != k], labels[folds != k]))
            probabilities[folds == k] = _spread(models[k], vectors[folds == k], len(classes))
        limit = confident.cutoff(probabilities, labels)
        if sample.height == rows:  # nobody was left out
            return _doubtful(sample, probabilities, labels, classes, limit)
        parts = []
        for batch in track(_batches(digests, classes), "judging labels", unit="batches"):
            vectors, labels, folds = encoder.encode(batch["text"]), _codes(batch["label"], classes), self._folds(batch)
            probabilities = np.zeros((batch.height, len(classes)), dtype=np.float32)
            for k, model in enumerate(models):
                probabilities[folds == k] = _spread(model, vectors[folds == k], len(classes))
            parts.append(_doubtful(batch, probabilities, labels, classes, limit))
        return pl.concat(parts)

    def _folds(self, rows: pl.DataFrame) -> Array:
        """The fold of each row, from bits of its draw that did not decide about the sample."""
        return (rows["draw"].to_numpy() % np.uint64(self.folds)).astype(np.int64)

    def _report(self, found: pl.DataFrame, rows: int) -> pl.DataFrame:
        if self.action == "drop" or not found.height:
            return verdicts(
                found.with_columns(
                    reason=pl.format(
                        "mislabelled: {} ({}), but it reads like {} ({})",
                        "label",
                        pl.col("given").cast(pl.Float64).round(2),
                        "best",
                        pl.col("best_probability").cast(pl.Float64).round(2),
                    )
                )
            )
        worst = found.sort("given", "at").with_columns(like=pl.format("{}, reads like {}", "label", "best"))
        self._notes.append(
            f"{found.height:,} of {rows:,} rows ({found.height / rows:.1%}) look mislabelled and are kept (flag): "
            + examples(worst, "like")
        )
        return no_verdicts()


def _codes(labels: pl.Series, classes: list[str]) -> Array:
    return labels.replace_strict(classes, range(len(classes)), return_dtype=pl.Int64).to_numpy()


def _spread(model: Any, vectors: Array, classes: int) -> Array:
    """Probabilities [rows, classes]; 0 for classes that the model has not seen."""
    out = np.zeros((len(vectors), classes), dtype=np.float32)
    if len(vectors):
        out[:, model.classes_] = model.predict_proba(vectors)
    return out


def _doubtful(
    rows: pl.DataFrame, probabilities: Array, labels: Array, classes: list[str], limit: float
) -> pl.DataFrame:
    found = confident.Confidence.of(probabilities, labels)
    names = np.array(classes, dtype=object)[found.best]
    return (
        rows.select("at", "id", "label")
        .with_columns(
            best=pl.Series(names, dtype=pl.String),
            given=pl.Series(found.given),
            best_probability=pl.Series(found.best_probability),
        )
        .filter(pl.Series((found.best != labels) & (found.given <= limit)))
    )


def _batches(digests: pl.LazyFrame, classes: list[str]) -> Iterator[pl.DataFrame]:
    """The labelled rows of the judged classes, some at a time."""
    for start in range(0, int(digests.select(pl.len()).collect().item()), _BATCH_ROWS):
        yield digests.slice(start, _BATCH_ROWS).filter(_LABELLED & pl.col("label").is_in(classes)).collect()
