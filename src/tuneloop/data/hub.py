"""A data set of a hub by its name -> the files of one of its parts, on this machine.

Which files make up a part is said by the data set's card (``configs`` in the head of README.md) or, without one, by
folder and file names, as the hub's own library reads them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tuneloop.data.readers import is_readable
from tuneloop.errors import DataError, first_line, need
from tuneloop.progress import log
from tuneloop.store import is_offline

CARD = "README.md"
_PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of parts, and the words for them in file names (those that the hub's ``datasets`` library knows)."""


def fetch(dataset: str, *, hub: str, name: str | None, revision: str | None, part: str) -> tuple[Path, list[str]]:
    """The folder that holds the data set, and the files of the part relative to it; fetched when they are not here.

    Args:
        dataset: ``owner/name``, or a folder that holds a copy.
        hub: ``huggingface`` or ``modelscope``.
        name: Which configuration of it.
        part: ``train``, ``validation``, ``test`` or what the publisher calls it.

    Raises:
        DataError: It is not to be had, is not here while offline, or has no such configuration or part.
        MissingExtraError: Without the hub's client.
    """
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        return folder, choose(_files_below(folder), _card(folder / CARD), dataset, name, part)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", dataset):
        raise DataError("no such data set", where=dataset, hint="write owner/name, or the path of a folder")
    return _fetched(dataset, hub, name, revision, part)


@lru_cache(maxsize=64)
def _fetched(dataset: str, hub: str, name: str | None, revision: str | None, part: str) -> tuple[Path, list[str]]:
    """Once a process: hashing and reading must not meet two states of a hub."""
    return (_from_modelscope if hub == "modelscope" else _from_huggingface)(dataset, name, revision, part)


def _from_huggingface(dataset: str, name: str | None, revision: str | None, part: str) -> tuple[Path, list[str]]:
    client, errors = need("huggingface_hub", "hub"), need("huggingface_hub.errors", "hub")
    options: dict[str, Any] = {"repo_id": dataset, "repo_type": "dataset", "revision": revision}
    if is_offline():
        try:
            folder = Path(client.snapshot_download(local_files_only=True, **options))
        except errors.LocalEntryNotFoundError:
            raise _not_here(dataset, f"hf download --repo-type dataset {dataset}") from None
        return folder, choose(_files_below(folder), _card(folder / CARD), dataset, name, part)
    try:
        info = client.HfApi().dataset_info(dataset, revision=revision)
        options["revision"] = info.sha
        listed = [sibling.rfilename for sibling in info.siblings or ()]
        card = _card(Path(client.hf_hub_download(filename=CARD, **options))) if CARD in listed else {}
        chosen = choose(listed, card, dataset, name, part)
        log(f"fetching {len(chosen)} files of {dataset} from the Hugging Face Hub")
        folder = Path(client.snapshot_download(allow_patterns=[_literal(file) for file in chosen], **options))
    except errors.GatedRepoError:
        raise DataError(
            "the data set is gated", where=dataset, hint="accept its terms on the hub, then: hf auth login"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        what = "revision" if isinstance(error, errors.RevisionNotFoundError) else "data set (or it is private)"
        raise DataError(
            f"the Hugging Face Hub has no such {what}",
            where=dataset,
            hint="check the name; private ones: hf auth login",
        ) from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, RuntimeError) as error:
        raise _unreachable("the Hugging Face Hub", dataset, error) from error
    return folder, chosen


def _from_modelscope(dataset: str, name: str | None, revision: str | None, part: str) -> tuple[Path, list[str]]:
    scope = need("modelscope", "modelscope")
    options: dict[str, Any] = {"repo_type": "dataset", **({"revision": revision} if revision else {})}
    try:
        folder = Path(scope.snapshot_download(dataset, local_files_only=is_offline(), **options))
    except Exception as error:  # ModelScope has no common base for its errors
        if is_offline():
            raise _not_here(dataset, f"modelscope download --dataset {dataset}") from error
        raise _unreachable("ModelScope", dataset, error) from error
    return folder, choose(_files_below(folder), _card(folder / CARD), dataset, name, part)


def choose(files: Iterable[str], card: Mapping[str, Any], dataset: str, name: str | None, part: str) -> list[str]:
    """The files of one part of one configuration, in the order of their names.

    Raises:
        DataError: There is no such configuration or part, or several configurations and none is named.
    """
    files = sorted(file for file in files if is_readable(Path(file)) and not _is_about(file))
    if not files:
        raise DataError(
            "the data set has no file that can be read",
            where=dataset,
            hint="it may be a script (not run here); many have Parquet copies: revision: refs/convert/parquet",
        )
    configurations = _configurations(files, card)
    if name is None:
        name = "default" if "default" in configurations else next(iter(configurations))
        if len(configurations) > 1 and name != "default":
            raise DataError(
                f"the data set has {len(configurations)} configurations",
                where=dataset,
                hint=f"choose one with name: {_listed(configurations)}",
            )
    if name not in configurations:
        raise DataError(f"no configuration {name!r}", where=dataset, hint=f"it has {_listed(configurations)}")
    parts = configurations[name]
    known = next((p for p, words in _PARTS.items() if part in words and p in parts), part)
    if known not in parts:
        raise DataError(f"no part {part!r}", where=dataset, hint=f"it has {_listed(parts)}")
    return parts[known]


def _configurations(files: Sequence[str], card: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Configuration -> part -> files."""
    stated = card.get("configs")
    if isinstance(stated, list) and (found := _from_card(files, stated)):
        return found
    folders = {PurePosixPath(file).parts[0] for file in files if len(PurePosixPath(file).parts) > 1}
    named = {folder for folder in folders if folder != "data" and _part_of(folder) is None}
    everywhere = all(PurePosixPath(file).parts[0] in named for file in files)
    if everywhere and named:  # a folder for each configuration, as converted copies have it
        return {one: _parts([file for file in files if file.startswith(f"{one}/")]) for one in sorted(named)}
    return {"default": _parts(files)}


def _from_card(files: Sequence[str], stated: Sequence[Any]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for one in stated:
        if not isinstance(one, Mapping) or "data_files" not in one:
            continue
        parts: dict[str, list[str]] = {}
        for part, patterns in _patterns(one["data_files"]):
            below = PurePosixPath(str(one.get("data_dir") or ""))
            wanted = [str(below / pattern) for pattern in patterns]
            parts[part] = [file for file in files if any(_matches(file, pattern) for pattern in wanted)]
        found[str(one.get("config_name", "default"))] = {part: held for part, held in parts.items() if held}
    return {name: parts for name, parts in found.items() if parts}


def _patterns(data_files: Any) -> list[tuple[str, list[str]]]:
    """``data_files`` of a card: a pattern, a list of them, or a list of {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    found: list[tuple[str, list[str]]] = []
    for entry in entries:
        part, path = (
            (str(entry.get("split", "train")), entry.get("path")) if isinstance(entry, Mapping) else ("train", entry)
        )
        found.append((part, [str(one) for one in (path if isinstance(path, list) else [path]) if one]))
    return found


def _parts(files: Sequence[str]) -> dict[str, list[str]]:
    """Part -> files by the words in their names; where no name has one, everything is ``train``."""
    found: dict[str, list[str]] = {}
    for file in files:
        if part := _part_of(file):
            found.setdefault(part, []).append(file)
    return found or {"train": list(files)}


def _part_of(file: str) -> str | None:
    """The part that a path names: the last word in it that stands for one (``train/test_a.csv`` is test)."""
    words = re.split(r"[^a-z]+", file.lower())
    return next((part for word in reversed(words) for part, known in _PARTS.items() if word in known), None)


def _matches(file: str, pattern: str) -> bool:
    """Shell patterns in which ``**/`` also stands for no folder."""
    return fnmatch.fnmatchcase(file, pattern) or fnmatch.fnmatchcase(file, pattern.replace("**/", ""))


def _literal(file: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", file)


def _is_about(file: str) -> bool:
    """Files about the data set: its card, licence, checksums and hidden ones."""
    path = PurePosixPath(file)
    hidden = any(part.startswith(".") for part in path.parts)
    return (
        hidden or path.suffix == ".md" or path.name in ("dataset_infos.json", "dataset_info.json", "requirements.txt")
    )


def _files_below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _card(path: Path) -> Mapping[str, Any]:
    """The YAML head of a card; empty where there is none."""
    if not path.is_file():
        return {}
    head = re.match(r"---\r?\n(.*?)\r?\n---\s", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        said = yaml.safe_load(head.group(1)) if head else None
    except yaml.YAMLError as error:
        log(f"{path}: its head is not valid YAML and is not used ({' '.join(str(error).split())[:100]})")
        said = None
    return said if isinstance(said, Mapping) else {}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _not_here(dataset: str, command: str) -> DataError:
    return DataError(
        f"the data set {dataset!r} is not on this machine, and fetching is switched off",
        hint=f"on a connected machine: {command} --local-dir FOLDER; copy it here; dataset: FOLDER",
    )


def _unreachable(place: str, dataset: str, error: BaseException) -> DataError:
    return DataError(
        f"{place} did not give it: {first_line(error)}",
        where=dataset,
        hint="check the network, or copy it here and name its folder",
    )
