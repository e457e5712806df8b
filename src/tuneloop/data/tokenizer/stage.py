"""The tokenizer stage: texts -> tokenizer, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.data.tokenizer import measure, report
from tuneloop.data.tokenizer.config import TokenizerConfig
from tuneloop.data.tokenizer.texts import Texts
from tuneloop.data.tokenizer.train import save, special_tokens, train
from tuneloop.progress import log
from tuneloop.rundir import RunDir, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPORT_JSON, REPORT = "tokenizer_report.json", "report.html"
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class TokenizerArtifact:
    """A trained tokenizer: its folder (which transformers loads), and what its report says."""

    folder: Path
    facts: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        return int(self.facts["tokenizer"]["vocab_size"])


def load(out: RunDir) -> TokenizerArtifact:
    """Read a finished stage.

    Raises:
        DataError: It has not run there.
    """
    return TokenizerArtifact(out.path, read_json(out / REPORT_JSON))


def run(config: TokenizerConfig, out: RunDir) -> TokenizerArtifact:
    """See ``tuneloop.data.train_tokenizer``."""
    texts, read = Texts(config), {"texts": 0, "characters": 0}

    def counted() -> Iterator[str]:
        read.update(texts=0, characters=0)
        for text in texts.training():
            read["texts"] += 1
            read["characters"] += len(text)
            yield text

    base = measure.load(config.compare_with) if config.compare_with else None
    tokenizer = train(config, counted)
    unreadable = texts.unreadable
    save(tokenizer, config, out)
    held_out, measured_on = measure.sample(texts.held_out()), "texts that were held out"
    if not held_out:
        held_out, measured_on = (
            measure.sample(texts.training()),
            "the training texts: there were too few to hold some out",
        )
    made = measure.measure(tokenizer, held_out)
    facts: dict[str, Any] = {
        "model": {"bpe": "byte-level BPE", "wordpiece": "WordPiece"}[config.model],
        **read,
        "unreadable_rows": unreadable,
        "measured_on": measured_on,
        "special_tokens": special_tokens(config),
        "tokenizer": made.to_json(),
        "compared_name": config.compare_with.name if config.compare_with else None,
        "compared_with": measure.measure(base, held_out).to_json() if base is not None else None,
        "longest": _longest(tokenizer, config),
        "notes": _notes(config, made, unreadable),
    }
    out.write_json(REPORT_JSON, facts)
    out.write_text(REPORT, report.render(json.loads(json.dumps(facts))))
    for note in facts["notes"]:
        log(f"warning: {note}")
    return load(out)


def _longest(tokenizer: Tokenizer, config: TokenizerConfig) -> list[str]:
    special = set(special_tokens(config))
    learned = (tokenizer.decode([k]) for token, k in sorted(tokenizer.get_vocab().items()) if token not in special)
    return sorted(set(learned), key=lambda text: (-len(text.encode()), text))[:_LONGEST]


def _notes(config: TokenizerConfig, made: measure.Measured, unreadable: int) -> list[str]:
    notes = []
    if made.vocab_size < config.vocab_size:
        notes.append(
            f"{config.vocab_size:,} tokens were asked for and the text gives {made.vocab_size:,}: add text, or lower "
            f"tokenizer.min_frequency ({config.min_frequency})"
        )
    notes += [
        f"{fit.unknown:.1%} of the tokens of {fit.language} texts are unknown: make the vocabulary larger, or use bpe"
        for fit in made.fits
        if fit.unknown > 0.001
    ]
    if unreadable:
        notes.append(f"{unreadable:,} rows could not be read and were left out")
    return notes
