"""Compression: bundle -> smaller bundle, with the proof that it is still the same model.

config.py     what can be set
gguf_file.py  a transformers model as GGUF
parity.py     token ids, Kullback-Leibler divergence, greedy agreement
stage.py      merge -> write -> compare
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneloop.compress.config import CompressConfig
from tuneloop.compress.parity import Parity
from tuneloop.compress.stage import Compressed, load, run

__all__ = ["CompressConfig", "Compressed", "Parity", "load", "run", "write_gguf"]


def write_gguf(model: Any, tokenizer: Any, path: Path, quantisation: str, *, name: str) -> None:
    """Write a transformers model as a GGUF file; see ``gguf_file.write_gguf``."""
    from tuneloop.compress import gguf_file

    gguf_file.write_gguf(model, tokenizer, path, quantisation, name=name)
