"""Where a run lives on disk. A run is a folder of stages; a stage is a folder that describes itself.

    runs/bank-support/
      data/                 config.yaml  manifest.json  metrics.jsonl  + artifacts
      train/                ...
      evaluate-base/        ...
      history/train-1f3a…/  the same stage under other settings: nothing is overwritten, going back is free

A stage whose configuration and inputs are unchanged and whose outputs still carry the recorded hashes is reused. An
interrupted stage keeps its folder and continues in it. All writes are atomic: write, fsync, rename.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

import tuneloop
from tuneloop.config import Config, hash_json
from tuneloop.errors import DataError, ResourceError
from tuneloop.progress import log

R = TypeVar("R")

MANIFEST, METRICS, CONFIG, LOCK = "manifest.json", "metrics.jsonl", "config.yaml", ".lock"
CHECKPOINTS = "checkpoints"
"""What a stage needs to continue; removed when its manifest says that it is complete, and never before."""
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
_NOT_OUTPUTS = {MANIFEST, CONFIG}
_NOT_OUTPUT_FOLDERS = {CHECKPOINTS, "tmp", "tensorboard", "wandb", "mlflow"}


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old or the new content and nothing else."""
    blob = data.encode("utf-8") if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(blob)
        fsync_path(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, on the disk, when the block ends well; else it vanishes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove the temporary files that processes left there which were killed while they wrote. Nobody else may write."""
    for left in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", left.name):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def fsync_path(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(error: OSError, path: Path) -> ResourceError:
    """An OSError while writing, or reading what was written, as two lines with what is free and where."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
        return ResourceError(
            f"the disk is full ({free / 1e6:.0f} MB free)",
            where=str(path),
            hint="free some space and run the same command again: it continues where it stopped",
        )
    if error.errno == errno.EFBIG:
        return ResourceError(
            "the file would be larger than this system lets it be",
            where=str(path),
            hint="raise the limit (ulimit -f) and run the same command again: it continues where it stopped",
        )
    if error.errno == errno.ENOENT:
        return ResourceError(
            "a file or its folder is gone",
            where=error.filename or str(path),
            hint="something removed it while it was needed",
        )
    return ResourceError(
        f"cannot write: {error.strerror or error}", where=str(path), hint="check the folder's permissions"
    )


def disk_error_in(error: Exception, path: Path) -> ResourceError | None:
    """The disk error inside an exception of a library that wraps it (safetensors, torch); None when there is none."""
    if isinstance(error, ResourceError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        return disk_error(error, path)
    if (found := re.search(r"os error (\d+)", str(error))) and int(found[1]) in _DISK_ERRNOS:
        return disk_error(OSError(int(found[1]), os.strerror(int(found[1]))), path)
    # torch tells that writing failed, never why
    if re.search("PytorchStreamWriter|inline_container|iostream error", str(error)):
        return disk_error(OSError(None, "torch could not write the file (a full disk or a quota?)"), path)
    return None


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named_hashes(config: Config) -> dict[str, str]:
    """Key -> hash, for every file and folder that a configuration names: of a file its bytes, of a folder names and sizes."""
    out = {}
    for key, value in config:
        if isinstance(value, Path) and value.is_file():
            out[key] = sha256_file(value)
        elif isinstance(value, Path) and value.is_dir():
            files = sorted(p for p in value.rglob("*") if p.is_file())
            out[key] = hash_json([[p.relative_to(value).as_posix(), p.stat().st_size] for p in files])
    return out


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DataError: It is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), hint="run the stage that writes it") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON: {error}", where=str(path), hint="delete it and run the stage again") from None


def _yaml(path: Path) -> dict[str, Any]:
    """A mapping that ``Config.to_yaml`` wrote; {} when it is missing or broken."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def run_of(manifest: Path) -> Path | None:
    """The folder of the run (or of the stage, where it stands alone) that a file named manifest.json describes; None when
    another program wrote it."""
    stage = manifest.parent
    try:
        ours = (stage / CONFIG).exists() and "tuneloop" in json.loads(manifest.read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    if not ours:
        return None
    return next((p for p in (stage.parent, stage.parent.parent) if (p / LOCK).exists()), stage)


class RunDir:
    """The folder of one stage."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; {} when there is none or it is unreadable."""
        try:
            found = json.loads((self / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def complete(self) -> bool:
        return self.manifest.get("status") == "complete"

    def write_json(self, name: str, value: Any) -> Path:
        write_atomic(self / name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
        return self / name

    def write_text(self, name: str, text: str) -> Path:
        write_atomic(self / name, text)
        return self / name

    def log_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        try:
            with (self / METRICS).open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                cut = file.read() not in (b"", b"\n")  # a crash left half a line: this one begins on its own
                file.write((b"\n" if cut else b"") + json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise disk_error(error, self / METRICS) from error

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that a crash cut short is passed over."""
        if (self / METRICS).exists():
            for line in (self / METRICS).read_bytes().split(b"\n"):
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    yield found

    def output_hashes(self) -> dict[str, dict[str, Any]]:
        """Relative path -> bytes and SHA-256, for every artifact of the stage."""
        out = {}
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            inside = file.relative_to(self.path)
            if inside.parts[0] in _NOT_OUTPUT_FOLDERS or str(inside) in _NOT_OUTPUTS or file.name.startswith("."):
                continue
            out[inside.as_posix()] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        return out

    @property
    def fingerprint(self) -> str:
        """What a later stage depends on: hashes of the outputs, without logs, reports and timings."""
        outputs = self.manifest.get("outputs", {})
        kept = {k: v["sha256"] for k, v in outputs.items() if k not in (METRICS,) and not k.endswith(".html")}
        return hash_json(kept)

    def is_intact(self) -> bool:
        """Whether every output is still what the manifest says."""
        return bool(self.manifest.get("outputs") is not None) and all(
            (self / name).is_file()
            and (self / name).stat().st_size == seen["bytes"]
            and sha256_file(self / name) == seen["sha256"]
            for name, seen in self.manifest["outputs"].items()
        )


def _stage_key(config: Config, inputs: Mapping[str, str]) -> str:
    """What a stage depends on: its configuration, its inputs, and who does it."""
    return hash_json({"config": config.identity(), "inputs": dict(inputs), "version": tuneloop.__version__})


class Run:
    """A run: a folder of stages, used by one process at a time.

    Args:
        root: The folder, e.g. ``runs/bank-support``.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def dir(self, stage: str) -> RunDir:
        return RunDir(self.root / stage)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run; a second process is told who has it.

        Raises:
            ResourceError: Another process is running it, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / LOCK).open("a+")
        except OSError as error:
            raise disk_error(error, self.root) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ResourceError(
                    f"another tuneloop (pid {file.read().strip() or '?'}) is running this run",
                    where=str(self.root),
                    hint="wait for it, or give this one another name: name=other",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def stage(
        self,
        name: str,
        config: Config,
        inputs: Mapping[str, str],
        work: Callable[[RunDir], R],
        load: Callable[[RunDir], R],
    ) -> tuple[R, bool]:
        """Do a stage, or reuse it.

        Args:
            name: Folder name of the stage.
            config: Its configuration.
            inputs: Name -> hash of each input.
            work: Does the stage in the given folder; a partly filled folder is an interrupted attempt to continue.
            load: Reads the artifact of a finished stage.

        Returns:
            The artifact, and whether it was reused.
        """
        key = _stage_key(config, inputs)
        out = self.dir(name)
        self._say_anew(out, key, config, inputs)
        self._swap_in(name, key)
        if out.complete and out.is_intact():
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # of an attempt that was killed while it did this
            return load(out), True
        if out.complete:  # finished once, damaged since: never trust the rest of it
            self._archive(name, f"{key[:12]}-damaged-{int(time.time())}")
        out.path.mkdir(parents=True, exist_ok=True)
        sweep(out.path)
        started = datetime.now(UTC)
        manifest: dict[str, Any] = {
            "stage": name,
            "status": "running",
            "key": key,
            "config_sha256": config.hash(),
            "inputs": dict(inputs),
            "tuneloop": tuneloop.__version__,
            "started": started.isoformat(timespec="seconds"),
        }
        out.write_text(CONFIG, config.to_yaml())
        out.write_json(MANIFEST, manifest)
        clock = time.monotonic()
        artifact = work(out)
        manifest |= {
            "status": "complete",
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - clock, 2),
            "outputs": out.output_hashes(),
        }
        out.write_json(MANIFEST, manifest)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        return artifact, False

    def find(self, name: str, config: Config, inputs: Mapping[str, str]) -> RunDir | None:
        """The folder that ``stage`` would reuse or continue in, without touching anything."""
        key = _stage_key(config, inputs)
        for folder in (self.root / name, self._kept(name, key)):
            if (out := RunDir(folder)).manifest.get("key") == key:
                return out
        return None

    def _say_anew(self, out: RunDir, key: str, config: Config, inputs: Mapping[str, str]) -> None:
        """Tell why a stage that was interrupted does not continue, and where its checkpoints are."""
        before, stage = out.manifest, out.path.name
        if before.get("key") in (None, key) or out.complete or not (out / CHECKPOINTS).exists():
            return
        changed = [f"{stage.partition('-')[0]}.{change}" for change in config.changes(_yaml(out / CONFIG))]
        old = before.get("inputs", {})
        changed += [f"another {name}" for name in {**old, **inputs} if old.get(name) != inputs.get(name)]
        if before.get("tuneloop") != tuneloop.__version__:
            changed.append(f"tuneloop {before.get('tuneloop')} -> {tuneloop.__version__}")
        how = "taking up the run of these" if self._kept(stage, key).exists() else "starting anew"
        log(
            f"settings changed: {', '.join(changed) or 'others count than before'}; {how}, "
            f"the unfinished run is kept in {self._kept(stage, before['key'])}"
        )

    def _kept(self, name: str, key: str) -> Path:
        return self.root / "history" / f"{name}-{key[:12]}"

    def _swap_in(self, name: str, key: str) -> None:
        """Make ``<root>/<name>`` the folder of this key: keep it, fetch it from history, or leave it absent."""
        here = self.dir(name)
        if here.path.exists() and (old := here.manifest.get("key")) != key:
            self._archive(name, str(old)[:12] if old else f"unknown-{int(time.time())}")
        kept = self._kept(name, key)
        if not here.path.exists() and kept.exists():
            kept.rename(here.path)

    def _archive(self, name: str, tag: str) -> None:
        target = self.root / "history" / f"{name}-{tag}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        self.dir(name).path.rename(target)
