"""A server that the ``upstream`` engine starts: waited for, watched, and ended with all its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from tuneloop.engines.config import UpstreamConfig
from tuneloop.engines.launch import PATIENCE_S
from tuneloop.errors import ConfigError, ServeError
from tuneloop.progress import log

if TYPE_CHECKING:
    from tuneloop.models import Bundle

POLL_S = 0.1


class OwnServer:
    """Start it and wait until its health route answers 200.

    Raises:
        ConfigError: Something else listens at the address already, or the command cannot be run.
        ServeError: It has died, or was not ready in time.
    """

    def __init__(self, config: UpstreamConfig, base: str, bundle: Bundle | None, timeout_s: float) -> None:
        address = urlsplit(base)
        host, port = address.hostname or "127.0.0.1", address.port or 80
        if _listens(host, port):
            raise ConfigError(f"something else listens at {base} already", where="engine.upstream.url")
        known = {"{path}": str(bundle.path) if bundle else "", "{port}": str(port)}
        words = [_filled(word, known) for word in config.command]
        self._words = words
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuneloop.engines.launch", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
            start_new_session=True,
        )
        log(f"engine: started {' '.join(words)}")
        try:
            self._wait(base + config.health_path, timeout_s)
        except BaseException:
            self.close()
            raise

    def check(self, patience_s: float = 0.0) -> None:
        """Raise when it has died; wait ``patience_s`` for it to do so.

        Raises:
            ServeError: With its exit code.
        """
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return
        raise ServeError(f"the server that was started has ended (exit code {code})", where=self._words[0])

    def close(self) -> None:
        """End it and every process of its group. Can be called twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(PATIENCE_S + 1.0)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _wait(self, url: str, timeout_s: float) -> None:
        opener = build_opener(ProxyHandler({}))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            try:
                with opener.open(url, timeout=5.0) as reply:
                    if reply.status == 200:
                        return
            except HTTPError as error:
                error.close()  # it lives and is not ready
            except (URLError, OSError):
                pass  # it does not listen yet
            time.sleep(POLL_S)
        raise ServeError(f"the server was not ready after {timeout_s:g} s", where=url)


def _filled(word: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        word = word.replace(name, value)
    return word


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
