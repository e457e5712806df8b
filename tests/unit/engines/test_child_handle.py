"""Messages between two processes: in order and whole however slowly it reads, and never a wait for whoever sends."""

from __future__ import annotations

import socket
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.engines.child_handle import Inbox, Outbox
from tuneloop.engines.messages import Cancel, Events, FromChild
from tuneloop.types import TokenEvent

LONG = 300_000
"""More than a socket takes at once."""


def pair() -> tuple[Outbox, Connection[Any, Any]]:
    ours, theirs = socket.socketpair()
    return Outbox(ours), Connection(theirs.detach())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([1, 50, 5_000, LONG]), max_size=12))
def test_what_is_put_arrives_whole_and_in_order(sizes: list[int]) -> None:
    outbox, reader = pair()
    sent = [Cancel(str(i) * size) for i, size in enumerate(sizes)]
    begun = time.monotonic()
    for message in sent:
        outbox.put(message)
    assert time.monotonic() - begun < 1.0, "nobody has read yet"
    assert [reader.recv() for _ in sent] == sent
    outbox.close()
    reader.close()


def test_threads_that_send_at_once_do_not_mix_their_bytes() -> None:
    outbox, reader = pair()

    def send(name: str) -> None:
        for i in range(50):
            outbox.put(Cancel(f"{name}{i}" * 500))

    threads = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    got = [reader.recv().request_id for _ in range(200)]
    for thread in threads:
        thread.join()
    for name in "abcd":
        assert [g for g in got if g[0] == name] == [f"{name}{i}" * 500 for i in range(50)]
    outbox.close()
    reader.close()


def test_an_end_that_does_not_read_holds_up_neither_sending_nor_closing() -> None:
    outbox, reader = pair()
    begun = time.monotonic()
    for _ in range(20):
        outbox.put(Cancel("x" * LONG))
    outbox.close()
    outbox.put(Cancel("late"))
    assert time.monotonic() - begun < 2.0
    reader.close()


def test_an_end_that_is_gone_gets_nothing() -> None:
    outbox, reader = pair()
    reader.close()
    for _ in range(3):
        outbox.put(Cancel("x" * LONG))
    outbox.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 5_000, 50_000]), max_size=5), st.data())
def test_what_comes_in_any_pieces_is_read_whole_in_order_and_without_waiting(
    sizes: list[int], data: st.DataObject
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent: list[FromChild] = [Events([TokenEvent("r", tuple(range(size)))]) for size in sizes]
        wire = b"".join(_on_the_wire(message) for message in sent)
        inbox, got = Inbox(ours), []
        while wire:
            cut = data.draw(st.integers(1, min(len(wire), 100_000)))
            theirs.sendall(wire[:cut])
            wire = wire[cut:]
            got += inbox.read()
            assert got == sent[: len(got)]
        assert got == sent
        assert inbox.read() == [], "nothing more has come"
        theirs.close()
        with pytest.raises(EOFError):
            inbox.read()


def _on_the_wire(message: FromChild) -> bytes:
    """What ``multiprocessing.connection.Connection`` makes of it."""
    ours, theirs = socket.socketpair()
    sender: Connection[FromChild, Any] = Connection(theirs.detach())

    def send() -> None:
        with sender:
            sender.send(message)

    thread = threading.Thread(target=send)
    thread.start()
    with ours, ours.makefile("rb") as wire:
        found = wire.read()
    thread.join()
    return found
