"""The parent's end of one child process: start it, talk to it, end it.

The child is ``python -m tuneloop.engines.child``, not ``multiprocessing``: it does not import the caller's main
module, and its standard output goes to standard error, so that a chatty library never mixes with data.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from tuneloop.engines.config import EngineConfig
from tuneloop.engines.messages import FromChild, Load, ToChild

if TYPE_CHECKING:
    from tuneloop.models import Bundle


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
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
            )
        self._pipe: Connection[ToChild, FromChild] = Connection(ours.detach())
        self._readable = select.poll()  # ``Connection.poll`` makes a new selector every time
        self._readable.register(self._pipe, select.POLLIN)
        self._outbox: queue.SimpleQueue[ToChild | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, name="engine-sender", daemon=True)
        self._sender.start()
        self.send(Load(config, bundle, os.getpid()))

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToChild) -> None:
        """Send without waiting: a child that does not read must not hold up its parent. A dead one gets nothing."""
        self._outbox.put(message)

    def _send_all(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)
        except OSError:  # it is dead; ``receive`` says so
            return

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
        self._outbox.put(None)
        self._sender.join()
        self._pipe.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
