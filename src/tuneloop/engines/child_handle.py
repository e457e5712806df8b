"""The parent's end of one child process: start it, talk to it, end it.

The child is ``python -m tuneloop.engines.child``, not ``multiprocessing``: it does not import the caller's main
module, and its standard output goes to standard error, so that a chatty library never mixes with data.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING

from tuneloop.engines.config import EngineConfig
from tuneloop.engines.messages import FromChild, Load, ToChild
from tuneloop.openmp import engine_environment

if TYPE_CHECKING:
    from tuneloop.models import Bundle


_LENGTH = struct.Struct("!i")
"""What ``Connection`` puts before a message of up to 2 GiB."""


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
        self._pipe: Connection[ToChild, FromChild] = Connection(os.dup(ours.fileno()))
        self._readable = select.poll()  # ``Connection.poll`` makes a new selector every time
        self._readable.register(self._pipe, select.POLLIN)
        self._outbox = Outbox(ours)
        self.send(Load(config, bundle, os.getpid()))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToChild) -> None:
        """Send without waiting: a child that does not read must not hold up its parent. A dead one gets nothing."""
        self._outbox.put(message)

    def receive(self, timeout_s: float) -> FromChild | None:
        """The next message, or None when none came in time.

        Raises:
            EOFError: The child is gone.
        """
        try:
            return self._pipe.recv() if self._readable.poll(timeout_s * 1000) else None
        except OSError as error:
            raise EOFError from error

    def end(self, patience_s: float) -> str:
        """Wait for it to end by itself, kill it and what it has started after ``patience_s``; says how it ended."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session and so a group of its own
            code = self._process.wait()
        self._outbox.close()
        self._pipe.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


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
        data = bytes(ForkingPickler.dumps(message))
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
