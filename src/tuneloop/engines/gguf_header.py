"""What the head of a GGUF file says, read without any package.

Source: the GGUF specification, version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tuneloop.errors import ModelError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 1 << 24
_MOST_DIMENSIONS = 4

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Header:
    """The single values of a file's metadata, and the names of its tensors."""

    values: Mapping[str, Scalar]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def of_architecture(self, key: str) -> Scalar | None:
        """A value that the format files under the architecture's name, such as ``rope.scaling.type``."""
        return self.values.get(f"{self.architecture}.{key}")


def read_header(path: Path) -> Header:
    """The whole head of a file.

    Raises:
        ModelError: It is not a GGUF file of version 2 or 3, or it is cut short.
    """
    try:
        with path.open("rb") as file:
            tensors = _counts(file, path)[0]
            return Header(dict(_scalars(file, path)), tuple(_tensor_name(file) for _ in range(tensors)))
    except (OSError, struct.error) as error:
        raise _unreadable(path, error) from None


def context_length(path: Path) -> int | None:
    """The context in tokens that the model was trained for; None when the file does not say.

    Raises:
        ModelError: It is not a GGUF file of version 2 or 3, or it is cut short.
    """
    try:
        with path.open("rb") as file:
            found = next((v for k, v in _scalars(file, path) if k.endswith(".context_length")), None)
    except (OSError, struct.error) as error:
        raise _unreadable(path, error) from None
    return found if isinstance(found, int) else None


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"the GGUF header cannot be read: {error}", where=str(path), hint="copy it again")


def _counts(file: BinaryIO, path: Path) -> tuple[int, int]:
    """How many tensors and how many values; the file begins here."""
    file.seek(0)
    if file.read(4) != b"GGUF":
        raise ModelError("not a GGUF file", where=str(path), hint="copy or convert the model again")
    version, tensors, values = _unpack(file, "<IQQ")
    if version not in (2, 3):
        raise ModelError(f"GGUF version {version} is not supported", where=str(path), hint="convert the model again")
    return tensors, values


def _scalars(file: BinaryIO, path: Path) -> Iterator[tuple[str, Scalar]]:
    for _ in range(_counts(file, path)[1]):
        key = _string(file)
        (kind,) = _unpack(file, "<I")
        if kind == _ARRAY:
            of, length = _unpack(file, "<IQ")
            _skip_array(file, of, length)
        elif kind == _STRING:
            yield key, _string(file)
        else:
            (value,) = _unpack(file, _form(kind))
            yield key, value


def _tensor_name(file: BinaryIO) -> str:
    """One entry of the tensor table: name, shape, type, offset."""
    name = _string(file)
    (dimensions,) = _unpack(file, "<I")
    if dimensions > _MOST_DIMENSIONS:
        raise struct.error(f"a tensor of {dimensions} dimensions")
    _unpack(file, f"<{dimensions}QIQ")
    return name


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise struct.error(f"unknown value type {kind}")
    return _SCALARS[kind]


def _skip_array(file: BinaryIO, of: int, length: int) -> None:
    if of == _STRING:
        for _ in range(length):
            _string(file)
    else:
        file.seek(length * struct.calcsize(_form(of)), 1)


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST_STRING:
        raise struct.error(f"a string of {length} bytes")
    return file.read(length).decode("utf-8", "replace")
