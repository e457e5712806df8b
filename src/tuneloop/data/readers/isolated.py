"""Decoding in a process of its own: bytes that end the decoder end that process and not the run.

The process is started on first use, serves one file after another, and ends when its input closes. It answers with
packets: a length (8 bytes, little-endian) and as many bytes of an Arrow stream; 0 at the end of the file; a negative
length before a message in UTF-8 where there is no reading on.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl

from tuneloop.data.readers.frames import Damaged, Kind, decode

_COMMAND = (sys.executable, "-c", f"from {__name__} import serve; serve()")
_idle: list[_Decoder] = []


def frames(path: Path, kind: Kind) -> Iterator[pl.DataFrame]:
    """What ``frames.decode`` gives, decoded elsewhere.

    Raises:
        Damaged: There is no reading on.
    """
    mine = [decoder for decoder in _idle if decoder.owner == os.getpid()]  # a forked child must not share its parent's
    decoder = mine[-1] if mine else _Decoder()
    if mine:
        _idle.remove(decoder)
    try:
        decoder.ask(path, kind)
        while packet := decoder.answer():
            yield pl.read_ipc_stream(io.BytesIO(packet))
    finally:
        if decoder.at_rest:
            _idle.append(decoder)
        else:
            decoder.end()


class _Decoder:
    """The decoding process, seen from outside."""

    def __init__(self) -> None:
        self.owner, self.at_rest = os.getpid(), True
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by end)
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def ask(self, path: Path, kind: Kind) -> None:
        assert self._process.stdin is not None
        self.at_rest = False
        try:
            self._process.stdin.write(json.dumps([str(path.absolute()), kind]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Damaged(self._last_words()) from None

    def answer(self) -> bytes:
        """The next frame; nothing at the end of the file.

        Raises:
            Damaged: The decoder says so, or it has ended.
        """
        head = self._read(8)
        (size,) = struct.unpack("<q", head)
        said = self._read(abs(size))
        self.at_rest = size <= 0
        if size < 0:
            raise Damaged(said.decode())
        return said

    def _read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        if len(data) != count:
            raise Damaged(self._last_words())
        return data

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        first = self._said.readline().decode(errors="replace").strip()
        return f"the decoder gave up: {first or f'exit {self._process.returncode}'}"[:200]

    def end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was still to be sent has nobody left to read it
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._said.close()


@atexit.register
def _end_all() -> None:
    for decoder in _idle:
        if decoder.owner == os.getpid():
            decoder.end()
    _idle.clear()


def serve() -> None:
    """What the process does."""
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        path, kind = json.loads(line)
        try:
            for frame in decode(Path(path), kind):
                buffer = io.BytesIO()
                frame.write_ipc_stream(buffer)
                out.write(struct.pack("<q", buffer.tell()))
                out.write(buffer.getbuffer())
            out.write(struct.pack("<q", 0))
        except Damaged as error:
            said = str(error).encode() or b"no reason is given"
            out.write(struct.pack("<q", -len(said)) + said)
        out.flush()
