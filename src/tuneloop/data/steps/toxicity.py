"""Rows that insult."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, PrivateAttr

from tuneloop.data import linear
from tuneloop.data.ngrams import Array
from tuneloop.data.steps import WholeBase
from tuneloop.data.steps.parts import Part, messages
from tuneloop.data.steps.verdicts import examples, no_verdicts, verdicts
from tuneloop.errors import need

Action = Literal["drop", "flag"]

_SENTENCE = r"[^。！？!?\n]{1,100}[。！？!?\n]*"
"""Nine of ten posts that the Chinese model was trained on have under 100 characters: of a message the worst sentence counts."""
_FEWEST_HAN = 2
_FEWEST_LATIN = 3


class Toxicity(WholeBase):
    """Finds offensive language and drops or flags the row.

    Chinese is judged by a linear model that ships with Tuneloop (trained on COLD, see ``data/weights/README.md``), English
    by alt-profanity-check (extra ``quality``). A row is as toxic as its worst message. Such models judge words rather than
    intent: text *about* insults is found too. Where customers insult and the answers are polite, judge the answers.
    """

    name: ClassVar[str] = "toxicity"

    threshold: float = Field(default=0.9, gt=0.0, le=1.0)
    """Probability from which a message counts as toxic. At 0.5 the Chinese model finds twice as much and is often wrong."""

    action: Action = "drop"
    """drop; or flag: keep the rows and name them in the report."""

    of: Part = "all"
    """Which messages are judged: prompt, answer or all."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(self._notes)

    def digest(self, frame: pl.DataFrame) -> pl.DataFrame:
        said = messages(frame, self.of)
        chinese, english = probabilities(said["content"])
        worst = np.zeros((2, frame.height), dtype=np.float32)
        for model, found in enumerate((chinese, english)):
            np.maximum.at(worst[model], said["row"].to_numpy(), found)
        return frame.select("id").with_columns(chinese=pl.Series(worst[0]), english=pl.Series(worst[1]))

    def decide(self, digests: pl.LazyFrame) -> pl.DataFrame:
        self._notes.clear()
        total, found = pl.collect_all(
            [
                digests.select(pl.len()),
                digests.with_columns(score=pl.max_horizontal("chinese", "english"))
                .filter(pl.col("score") >= self.threshold)
                .with_columns(
                    reason=pl.format(
                        "toxic: {} by the {} model",
                        pl.col("score").cast(pl.Float64).round(2),
                        pl.when(pl.col("chinese") >= pl.col("english"))
                        .then(pl.lit("Chinese"))
                        .otherwise(pl.lit("English")),
                    )
                ),
            ]
        )
        if self.action == "drop" or not found.height:
            return verdicts(found)
        worst = found.sort("score", "at", descending=[True, False])
        self._notes.append(
            f"{found.height:,} of {total.item():,} rows look toxic and are kept (flag): {examples(worst)}"
        )
        return no_verdicts()


def probabilities(texts: pl.Series) -> tuple[Array, Array]:
    """How likely each message is offensive, by the Chinese and by the English model: float32 [messages] each.

    A model sees the messages in its script only and says 0 for the others.

    Raises:
        MissingExtraError: There is English text and alt-profanity-check is not installed.
    """
    han = texts.str.count_matches(r"\p{Han}").to_numpy().astype(np.int64)
    latin = texts.str.count_matches(r"\p{Latin}").to_numpy().astype(np.int64)
    # An English word has about five letters: a few of them do not make a Chinese message English.
    return (
        _worst_sentence(texts, (han >= _FEWEST_HAN) & (4 * han >= latin)),
        _english(texts, (latin >= _FEWEST_LATIN) & (latin >= han)),
    )


def _worst_sentence(texts: pl.Series, judged: Array) -> Array:
    out = np.zeros(len(texts), dtype=np.float32)
    sentences = (
        pl.DataFrame({"at": np.flatnonzero(judged), "text": texts.filter(pl.Series(judged))})
        .with_columns(pl.col("text").str.extract_all(_SENTENCE))
        .explode("text")
        .filter(pl.col("text").str.count_matches(r"\p{Han}") >= _FEWEST_HAN)
    )
    np.maximum.at(out, sentences["at"].to_numpy(), linear.load("toxicity_zh").probabilities(sentences["text"]))
    return out


def _english(texts: pl.Series, judged: Array) -> Array:
    out = np.zeros(len(texts), dtype=np.float32)
    if judged.any():
        model = need("profanity_check", "quality")
        out[judged] = model.predict_prob(texts.filter(pl.Series(judged)).to_list())
    return out
