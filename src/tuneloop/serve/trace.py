"""W3C Trace Context (https://www.w3.org/TR/trace-context/, version 00): taken from the caller, passed on below us."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Trace:
    """Our part of a caller's trace."""

    trace_id: str
    parent_id: str
    """The caller's span."""
    span_id: str
    """Ours."""
    flags: str = "00"

    @classmethod
    def of(cls, header: str) -> Trace | None:
        """Read a ``traceparent`` header; None where it is absent or invalid, which the standard says to ignore."""
        found = _TRACEPARENT.fullmatch(header.strip())
        if found is None:
            return None
        version, trace_id, parent_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
            return None
        return cls(trace_id, parent_id, secrets.token_hex(8), flags)

    @property
    def traceparent(self) -> str:
        """The header for whom we ask in turn."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
