"""Cleaned text -> a tokenizer of one's own, with a report on how well it fits each language.

config      what to train
texts       the texts: of a finished data stage, or of plain files
train       byte-level BPE or WordPiece, saved so that transformers loads it
measure     tokens per word or character, coverage, bytes per token, on texts that were held out
report      the same for people
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuneloop.data.tokenizer.config import TokenizerConfig

if TYPE_CHECKING:
    from tuneloop.data.tokenizer.stage import TokenizerArtifact
    from tuneloop.rundir import RunDir

__all__ = ["TokenizerConfig", "input_hashes", "load", "run"]


def run(config: TokenizerConfig, out: RunDir) -> TokenizerArtifact:
    """Train on ``config.sources``, measure, and write tokenizer and report into ``out``, which transformers can load.

    Raises:
        DataError: A source is missing or unreadable, or there is no text.
        ConfigError: The vocabulary is too small for its special tokens, or the chat template cannot be read.
        MissingExtraError: ``tokenizers`` is not installed.
    """
    from tuneloop.data.tokenizer import stage

    return stage.run(config, out)


def load(out: RunDir) -> TokenizerArtifact:
    """Read a finished tokenizer stage.

    Raises:
        DataError: It has not run there.
    """
    from tuneloop.data.tokenizer import stage

    return stage.load(out)


def input_hashes(config: TokenizerConfig) -> dict[str, str]:
    """Name of each file that is read -> SHA-256.

    Raises:
        DataError: A source is missing, or none is named.
    """
    from tuneloop.data.tokenizer.texts import Texts

    return Texts(config).input_hashes()
