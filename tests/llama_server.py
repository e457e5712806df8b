"""llama.cpp's own HTTP server, from the xllamacpp wheel: a real peer for the ``upstream`` engine."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneloop.engines.platform import keep_signals


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def llama_server(file: Path, context: int, running: int) -> Iterator[str]:
    """Its address, while it runs."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx, params.kv_unified = running, context * running, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.verbosity, params.ui = False, -1, False
    params.hostnames, params.port = ["127.0.0.1"], free_port()
    with keep_signals():
        server = xllamacpp.Server(params)
    server.handle_completions({"prompt": [0], "n_predict": 1})  # its loop must have begun before it can be told to end
    time.sleep(0.1)
    yield f"http://127.0.0.1:{params.port}"
    del server
