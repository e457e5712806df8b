"""The exception tree. Expected errors print two lines and no traceback; anything else is our bug.

TuneloopError            exit 1
├── ConfigError          exit 2   a key, a value, a missing file named in the configuration
├── DataError            exit 3   a source that cannot be read or leaves nothing to train on
├── ModelError           exit 4   an unknown model, a broken bundle, an unsupported architecture
├── ResourceError        exit 5   disk, memory, a port, a lock
├── MissingExtraError    exit 6   an optional dependency, with the command that installs it
├── ServeError           exit 7   an engine or the gateway
├── GateFailed           exit 8   a verdict that is not "pass"
└── Interrupted          exit 75  stopped on request; the same command resumes (EX_TEMPFAIL of sysexits.h)
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import ClassVar


class TuneloopError(Exception):
    """An error the user can act on.

    Args:
        what: What is wrong, in one sentence.
        where: Where it is: ``file``, ``file:line``, a record id, a configuration key.
        hint: What to do next, preferably a command to type.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        """Two lines: ``where: what`` and ``hint: ...``."""
        first = f"{self.where}: {self.what}" if self.where else self.what
        return f"{first}\nhint: {self.hint}" if self.hint else first


class ConfigError(TuneloopError):
    exit_code = 2


class DataError(TuneloopError):
    exit_code = 3


class ModelError(TuneloopError):
    exit_code = 4


class ResourceError(TuneloopError):
    exit_code = 5


class MissingExtraError(TuneloopError):
    exit_code = 6


class ServeError(TuneloopError):
    exit_code = 7


class GateFailed(TuneloopError):
    exit_code = 8


class Interrupted(TuneloopError):
    exit_code = 75


def first_line(error: BaseException) -> str:
    """What another library says, for a sentence of ours: the first line of its message, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def need(module: str, extra: str) -> ModuleType:
    """Import an optional dependency or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed ({error})", hint=f"pip install 'tuneloop[{extra}]'"
        ) from error
