"""What the gateway's process and the engine's process say to each other. Pickled over a private socket pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneloop.engines.base import Capabilities, EngineStats
from tuneloop.engines.config import EngineConfig
from tuneloop.errors import TuneloopError
from tuneloop.types import Request, TokenEvent, packed

if TYPE_CHECKING:
    from tuneloop.models import Bundle


@dataclass(frozen=True, slots=True)
class Load:
    """To the child, first: what to run."""

    config: EngineConfig
    bundle: Bundle | None
    parent_pid: int


@packed
@dataclass(frozen=True, slots=True)
class Submit:
    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class Score:
    """To the child: answered with ``Scored`` in order."""

    sequences: list[tuple[tuple[int, ...], int]]


@dataclass(frozen=True, slots=True)
class Stop:
    """To the child: end now."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From the child: a token has been made; requests can come."""

    name: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child: it cannot start, for a reason the user can act on."""

    kind: type[TuneloopError]
    what: str
    where: str | None
    hint: str | None

    def to_error(self) -> TuneloopError:
        return self.kind(self.what, where=self.where, hint=self.hint)


@packed
@dataclass(frozen=True, slots=True)
class Events:
    events: list[TokenEvent]


@dataclass(frozen=True, slots=True)
class Stats:
    """From the child, now and then: what its engine knows about itself."""

    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Scored:
    values: list[list[float]] | None
    error: str | None = None


ToChild = Load | Submit | Cancel | Score | Stop
FromChild = Ready | Failed | Events | Scored | Stats
