"""An answer's head waits for its body, and for nothing else."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.connections import HeadWithBody

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Transport:
    """Keeps what reaches the network."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def wire() -> Transport:
    return Transport()


@pytest.fixture
def cycle(wire: Transport) -> Any:
    return SimpleNamespace(transport=wire, response_started=False)


def test_head_and_first_piece_go_out_together_and_the_rest_as_it_comes(wire: Transport, cycle: Any) -> None:
    answer = HeadWithBody(cycle)
    cycle.response_started = True
    answer.write(HEAD)
    assert wire.sent == []
    answer.write(BODY)
    answer.write(b"more")
    assert wire.sent == [HEAD + BODY, b"more"]


def test_the_invitation_to_send_a_body_does_not_wait(wire: Transport, cycle: Any) -> None:
    answer = HeadWithBody(cycle)
    answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    cycle.response_started = True
    answer.write(HEAD)
    answer.write(b"")  # 204 has an empty one
    assert wire.sent[1:] == [HEAD]


def test_an_answer_that_ends_after_its_head_has_sent_it(wire: Transport, cycle: Any) -> None:
    answer = HeadWithBody(cycle)
    cycle.response_started = True
    answer.write(HEAD)
    assert not answer.is_closing()
    answer.close()
    assert wire.sent == [HEAD]
    assert wire.closed
    assert answer.is_closing()


def test_an_answer_that_has_begun_is_freed_with_its_connections_cycle(wire: Transport) -> None:
    """Without waiting for the garbage collector, which stops every stream while it works."""

    class Cycle:
        transport: Any = wire
        response_started = True

    cycle = Cycle()
    cycle.transport = HeadWithBody(cycle)  # type: ignore[arg-type]  # as much of uvicorn's as it uses
    cycle.transport.write(HEAD)
    freed = weakref.ref(cycle)
    del cycle
    assert freed() is None
