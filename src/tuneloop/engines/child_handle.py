"""The parent's end of one child process: start it, talk to it, end it.

The child is ``python -m tuneloop.engines.child``, not ``multiprocessing``: it does not import the caller's main
module, and its standard output goes to standard error, so that a chatty library never mixes with data.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tuneloop.engines.config import EngineConfig
from tuneloop.engines.messages import FromChild, Load, ToChild
from tuneloop.openmp import engine_environment

if TYPE_CHECKING:
    from tuneloop.models import Bundle


_LENGTH = struct.Struct("!i")
"""What ``Connection`` puts before a message of up to 2 GiB."""
READ_BYTES = 262_144
"""Read from the child at a time."""
DETACH_S = 5.0
"""How long an event loop that does not turn is waited for."""


class ChildHandle:
    """A running child.

    Start it on a thread that lives as long as the child: Linux ties the child's death signal to the starting thread.
    """

    def __init__(self, config: EngineConfig, bundle: Bundle | None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tuneloop.engines.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
                env=engine_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
            )
        self._socket = ours
        self._readable = select.poll()
        self._readable.register(ours, select.POLLIN)
        self._inbox, self._outbox = Inbox(ours), Outbox(ours)
        self.send(Load(config, bundle, os.getpid()))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToChild) -> None:
        """Send without waiting: a child that does not read must not hold up its parent. A dead one gets nothing."""
        self._outbox.put(message)

    def fileno(self) -> int:
        """What can be read when the child has said something, or is gone."""
        return self._socket.fileno()

    def unread(self, timeout_s: float = 0.0) -> bool:
        """Whether there is something to read; waits for it."""
        return bool(self._readable.poll(timeout_s * 1000))

    def read(self) -> list[FromChild]:
        """The messages that have come whole; does not wait.

        Raises:
            EOFError: The child is gone.
        """
        return self._inbox.read()

    def end(self, patience_s: float) -> str:
        """Wait for it to end by itself, kill it and what it has started after ``patience_s``; says how it ended."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session and so a group of its own
            code = self._process.wait()
        self._outbox.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class LoopReader:
    """Has an event loop read what a child says. Made and used by another thread.

    Args:
        loop: Reads, from its next turn on.
        child: Is read.
        take: Called on the loop; returns why the child must go, or None.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, child: ChildHandle, take: Callable[[list[FromChild]], str | None]
    ) -> None:
        self._loop, self._child, self._take = loop, child, take
        self._ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._call(lambda: loop.add_reader(child, self._read))

    def wait(self, timeout_s: float) -> str | None:
        """Why the child must go; None when there is nothing to say against it yet.

        Raises:
            EOFError: The child is gone.
        """
        try:
            problem = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if problem is None:
            raise EOFError
        return problem

    def close(self) -> None:
        """The loop looks at the child no more when this returns. Not to be called on the loop."""
        done = threading.Event()

        def end() -> None:
            self._loop.remove_reader(self._child)
            done.set()

        if self._call(end):
            done.wait(DETACH_S)

    def _read(self) -> None:
        problem: str | None = None
        try:
            if (problem := self._take(self._child.read())) is None:
                return
        except EOFError:
            pass
        self._loop.remove_reader(self._child)
        self._ended.put(problem)

    def _call(self, what: Callable[[], object]) -> bool:
        """False when the loop has been closed, and looks at nothing."""
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            return False
        return True


class Inbox:
    """Takes messages apart that ``Connection.send`` has sent: all that are there in one go, and never waits for the rest
    of one, as ``Connection.recv`` does.

    Args:
        ours: One end of a socket pair.
    """

    def __init__(self, ours: socket.socket) -> None:
        self._socket, self._rest = ours, bytearray()

    def read(self) -> list[FromChild]:
        """See ``ChildHandle.read``."""
        try:
            data = self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self._rest += data
        found: list[FromChild] = []
        at = 0
        with memoryview(self._rest) as rest:
            while len(rest) - at >= _LENGTH.size:
                begin = at + _LENGTH.size
                end = begin + _LENGTH.unpack_from(rest, at)[0]
                if end > len(rest):
                    break
                found.append(pickle.loads(rest[begin:end]))  # noqa: S301 -- our own child wrote it
                at = end
        del self._rest[:at]
        return found


class Outbox:
    """Sends messages in order, as ``Connection.send`` would, and never waits: what the socket does not take at once is
    sent by a thread.

    Args:
        ours: One end of a socket pair; closed with this.
    """

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._left: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._send_rest, name="engine-sender", daemon=True)
        self._thread.start()

    def put(self, message: ToChild) -> None:
        """Send; nothing happens when the other end is gone."""
        data = pickle.dumps(message)
        data = _LENGTH.pack(len(data)) + data
        with self._changed:
            if self._closed:
                return
            if not self._left:
                try:
                    data = data[self._socket.send(data, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    pass
                except OSError:  # it is dead; ``ChildHandle.receive`` says so
                    return
            if data:
                self._left.append(data)
                self._changed.notify()

    def close(self) -> None:
        """End the thread; what has not been sent never will be."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        with suppress(OSError):  # the other end is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _send_rest(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left or self._closed)
                if self._closed:
                    return
            try:
                self._socket.sendall(self._left[0])
            except OSError:
                return
            with self._changed:
                self._left.popleft()
