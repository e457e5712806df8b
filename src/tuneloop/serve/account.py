"""What one call costs: checked and reserved when it is accepted, settled and written down when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneloop.serve import audit
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.checks import check_asked
from tuneloop.types import Request, TokenEvent

if TYPE_CHECKING:
    from tuneloop.serve.answering import Answering
    from tuneloop.serve.asked import Asked, Caller
    from tuneloop.serve.book import Reservation
    from tuneloop.serve.gateway import Gateway

TIMED_OUT = TokenEvent("", finish="error", error="timeout")
"""Put among a call's events when its time is over."""


class Account:
    """The account of one call; make it with ``open``, then ``reserve``, and ``close`` it in any case.

    Everybody goes through here: what came over HTTP or gRPC has an entry for the audit log and was counted at the door,
    what came another way (the lines of batches) gets both here.
    """

    def __init__(self, gateway: Gateway, asked: Asked, caller: Caller) -> None:
        self._gateway, self._asked, self._caller = gateway, asked, caller
        around = audit.current.get()
        self._own = around is None or not caller.request_id.endswith(around.request_id)
        if around is None or self._own:
            around = audit.Entry(caller.request_id, caller.key.id, f"call {caller.request_id.partition('-')[0]}")
            audit.current.set(around)
        self.entry = around
        self._held: Reservation | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.closed = False

    @classmethod
    async def open(cls, gateway: Gateway, asked: Asked, caller: Caller) -> Account:
        """Begin the account of a call.

        Raises:
            ApiError: 400, it asks for too much; 429, its key has used its limit; 503, the audit log cannot be written.
        """
        check_asked(gateway.config.shield, asked)
        account = cls(gateway, asked, caller)
        if account._own:
            check_audit(gateway)
            await gateway.limits.count(caller.key, account.entry.headers)
        return account

    async def reserve(self, requests: Sequence[Request]) -> None:
        """Set aside all tokens that the requests may use.

        Raises:
            ApiError: 429 or 503.
        """
        most = sum(len(r.prompt_ids) + r.sampling.max_tokens for r in requests)
        self._held = await self._gateway.limits.reserve(self._caller.key, most, self.entry.headers)

    def accepted(self, events: asyncio.Queue[TokenEvent]) -> None:
        """From now on the call has ``serve.timeout_s``; then ``TIMED_OUT`` is the next of its events."""
        wait = self._gateway.config.timeout_s
        self._deadline = asyncio.get_running_loop().call_later(wait, events.put_nowait, TIMED_OUT)

    def timed_out(self) -> ApiError:
        self._gateway.metrics.error("timeout")
        said = f"the answer was not complete after {self._gateway.config.timeout_s:g} s"
        return ApiError(504, said, code="timeout")

    def close(self, answering: Answering | None) -> None:
        """Settle it; ``None`` when nothing was accepted. Can be called twice."""
        if self.closed:
            return
        self.closed = True
        if self._deadline is not None:
            self._deadline.cancel()
        usage = answering.usage if answering else {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        self._gateway.limits.settle(self._held, usage["total_tokens"])
        entry = self.entry
        entry.prompt_tokens += usage["prompt_tokens"]
        entry.completion_tokens += usage["completion_tokens"]
        entry.finish += answering.finishes if answering else []
        if self._gateway.config.audit.bodies:
            entry.bodies |= {
                "asked": [m.content for m in self._asked.messages] or [str(p) for p in self._asked.prompts],
                "answered": [answer.content for answer in answering.answers] if answering else [],
            }
        if self._own and self._gateway.audit is not None:
            self._gateway.audit.write(entry.line())


def check_audit(gateway: Gateway) -> None:
    """Refuse while what is done cannot be written down.

    Raises:
        ApiError: 503.
    """
    if gateway.audit is not None and not gateway.audit.accepts():
        gateway.metrics.error("audit_unavailable")
        said = "the audit log cannot be written; try again later"
        raise ApiError(503, said, code="audit_unavailable", headers={"Retry-After": "10"})
