"""The border of a partly frozen model, and a file with the hidden states that cross it.

Rows are sorted by their tokens and cut into fixed chunks; what the rows of a chunk begin with in common is computed and
stored once (``Forest``). Chunks do not depend on the batch plan, so a file that is built again after a crash holds the
same bits.

    <key>.bin      tokens x width, in the model's dtype
    <key>.json     its size and SHA-256; written last
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tuneloop.models import Forest, backbone, layout
from tuneloop.progress import Progress
from tuneloop.rundir import disk_error, fsync_path, sha256_file, write_atomic

CHUNK_TOKENS = 2048
"""Tokens of a chunk, shared beginnings counted once; a longer row goes alone."""

Row = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Border:
    """The lowest layer that trains, and what is below it."""

    layer: int
    frozen: tuple[nn.Module, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Border | None:
        """None when something below or beside the layers trains, or the first layer does, or the decoder's parts have
        other names than Llama's."""
        decoder: Any = backbone(model)
        if not (hasattr(decoder, "layers") and hasattr(decoder, "norm")):
            return None
        moving = [i for i, layer in enumerate(decoder.layers) if any(p.requires_grad for p in layer.parameters())]
        first = min(moving, default=len(decoder.layers))
        allowed = {id(p) for layer in decoder.layers for p in layer.parameters()}
        allowed |= {id(p) for p in decoder.norm.parameters()}
        below = tuple(m for m in (decoder.get_input_embeddings(), *decoder.layers[:first]))
        allowed |= {id(p) for p in model.get_output_embeddings().parameters()}  # type: ignore[operator]
        allowed -= {id(p) for m in below for p in m.parameters()}  # a head tied to the embedding is below
        stray = any(p.requires_grad and id(p) not in allowed for p in model.parameters())
        return None if first == 0 or stray else cls(first, below)

    def noise(self) -> str | None:
        """What makes the frozen layers give another answer each time."""
        for part in self.frozen:
            for module in part.modules():
                if isinstance(module, nn.Dropout) and module.p > 0:
                    return "dropout in the frozen layers"
                if getattr(module, "attention_dropout", 0):
                    return "attention dropout in the frozen layers"
        return None


def head_of(model: nn.Module, border: Border) -> nn.Module:
    """A view of the decoder that ends at the border: its last hidden states are those that enter that layer."""
    decoder: Any = backbone(model)
    return view_of(decoder, layers=decoder.layers[: border.layer], norm=nn.Identity())


def view_of(module: nn.Module, **children: nn.Module) -> nn.Module:
    """The same module with other children; parameters are shared, nothing is copied."""
    view = copy.copy(module)
    view._modules = {**module._modules, **children}
    return view


class Cache:
    """Activations of rows in a file. ``where[row][t]`` is the line of the file that holds token t of a row."""

    def __init__(self, folder: Path, model: nn.Module, border: Border, rows: Iterable[Row]) -> None:
        self.folder, self.model, self.border = folder, model, border
        self.chunks = list(_chunks(sorted(set(rows))))
        self.where: dict[Row, Tensor] = {}
        self.tokens = 0
        for chunk in self.chunks:
            forest = Forest.grow(chunk)
            for row, places in zip(chunk, forest.places, strict=True):
                self.where[row] = torch.tensor(places, dtype=torch.int64) + self.tokens
            self.tokens += len(forest.tokens)
        weight = next(backbone(model).parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.width = int(model.config.get_text_config().hidden_size)  # type: ignore[operator, union-attr]
        self.line_bytes = self.width * weight.element_size()
        self.lines: Any = None

    @property
    def bytes(self) -> int:
        return self.tokens * self.line_bytes

    def open(self) -> None:
        """Build the file, unless it is there whole.

        Raises:
            ResourceError: The disk is full.
        """
        key = self._key()
        path, facts = self.folder / f"{key}.bin", self.folder / f"{key}.json"
        if not _whole(path, facts):
            for old in (*self.folder.glob("*.bin"), *self.folder.glob(".*.tmp")):
                old.unlink()
            digest = self._build(path)
            write_atomic(facts, json.dumps({"bytes": self.bytes, "sha256": digest, "layer": self.border.layer}))
        self.lines = np.memmap(path, np.uint8, "r", shape=(self.tokens, self.line_bytes))

    def gather(self, places: Sequence[Sequence[int]], rows: Sequence[Row], count: int) -> Tensor:
        """Activations 1 x T x C of a flat row of ``count`` tokens, in which token t of row r stands at ``places[r][t]``."""
        line_T = torch.empty(count, dtype=torch.int64)
        for place, row in zip(places, rows, strict=True):
            line_T[torch.tensor(place, dtype=torch.int64)] = self.where[row]
        return torch.from_numpy(self.lines[line_T.numpy()]).view(self.dtype)[None].to(self.device)

    def _key(self) -> str:
        """Of the frozen weights, the rows and the border."""
        digest = hashlib.sha256(f"{self.border.layer} {CHUNK_TOKENS} {self.dtype}".encode())
        for part in self.border.frozen:
            for name, tensor in part.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        for row in self.where:
            digest.update(torch.tensor((len(row), *row)).numpy().data)
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _build(self, path: Path) -> str:
        """One pass of the frozen layers over every chunk; returns the SHA-256 of the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        digest = hashlib.sha256()
        try:
            # Not written through a memory map: a full disk would end the process there, here it is an error.
            with temporary.open("wb") as file, Progress("frozen layers", len(self.chunks), "chunks") as bar:
                for chunk in self.chunks:
                    lines = self._pass(Forest.grow(chunk)).cpu().contiguous().view(torch.uint8).numpy().data
                    digest.update(lines)
                    file.write(lines)
                    bar.update()
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            fsync_path(self.folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error(error, path) from error
        finally:
            self.model.train(self.model.training)  # the frozen layers were told to be still
        return digest.hexdigest()

    def _pass(self, forest: Forest) -> Tensor:
        """Hidden states T x C that enter the border's layer."""
        plan = layout(forest.nodes).to(self.device, self.dtype)
        below = head_of(self.model, self.border).eval()
        ids = torch.tensor([forest.tokens], device=self.device)
        out = below(input_ids=ids, position_ids=plan.position_ids_1T, use_cache=False, attention_mask=None, flat=plan)
        return out.last_hidden_state[0]  # type: ignore[no-any-return]


def _chunks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Cut sorted rows so that each chunk holds about ``CHUNK_TOKENS`` tokens after sharing."""
    chunk: list[Row] = []
    held = 0
    for row in rows:
        own = len(row) - (_agreeing(chunk[-1], row) if chunk else 0)
        if chunk and held + own > CHUNK_TOKENS:
            yield chunk
            chunk, held, own = [], 0, len(row)
        chunk.append(row)
        held += own
    if chunk:
        yield chunk


def _agreeing(a: Row, b: Row) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _whole(path: Path, facts: Path) -> bool:
    """Whether the file is there with the content that was written."""
    try:
        said = json.loads(facts.read_text())
        return bool(path.stat().st_size == said["bytes"] and sha256_file(path) == said["sha256"])
    except (OSError, ValueError, KeyError):
        return False
