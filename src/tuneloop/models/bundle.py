"""The bundle: a model folder that says what it is, what it came from, and whether it is still intact.

    tuneloop.json   {format, kind, precision, base, template_sha256, files, facts, created}
    README.md       the model card, written from the same facts
    + model.safetensors, config.json, tokenizer.json ...       kind "model"
      adapter_model.safetensors, adapter_config.json, ...      kind "adapter" (PEFT's own format; needs its base)
      *.gguf, tokenizer.json, config.json                      kind "gguf"

A plain Hugging Face folder is a bundle without a manifest: it can be opened, but not verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

from tuneloop import __version__, store
from tuneloop.config import hash_json
from tuneloop.errors import ModelError
from tuneloop.models.adapters import portable_settings
from tuneloop.models.card import model_card
from tuneloop.models.folder import MANIFEST, content, fingerprint, folder_name, read_object, staging, template_text
from tuneloop.progress import track
from tuneloop.rundir import sha256_file, write_atomic

Kind = Literal["model", "adapter", "gguf"]
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A model folder.

    Args:
        path: The folder.
        kind: Full weights, an adapter over ``base``, or GGUF.
        manifest: What ``tuneloop.json`` says; {} for a plain folder.
        base: The folder of the model an adapter belongs to; None when it is not here, and for other kinds.
    """

    path: Path
    kind: Kind
    manifest: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None

    @property
    def version(self) -> str:
        """First 12 hex digits of a hash over its files; for a plain folder of its fingerprint."""
        files = self.manifest.get("files")
        return (hash_json({n: f["sha256"] for n, f in files.items()}) if files else fingerprint(self.path))[:12]

    @property
    def precision(self) -> str:
        """``float32``, ``bfloat16``, ``q8_0`` ... of the weights; an adapter is served in its base's."""
        if said := self.manifest.get("precision"):
            return str(said)
        if self.kind == "gguf":
            return self.gguf_file.stem.rpartition(".")[2].lower()
        folder = self.base if self.kind == "adapter" else self.path
        config = read_object(folder / "config.json") if folder and (folder / "config.json").is_file() else {}
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")

    @property
    def virtual_tokens(self) -> int:
        """Of prefix or prompt tuning: tokens in front of every prompt, which no merge can put into weights; else 0."""
        file = self.path / "adapter_config.json"
        config = read_object(file) if self.kind == "adapter" and file.is_file() else {}
        return int(config.get("num_virtual_tokens") or 0)

    @property
    def gguf_file(self) -> Path:
        """The GGUF file.

        Raises:
            ModelError: There is none, or more than one.
        """
        found = sorted(self.path.glob("*.gguf"))
        if len(found) != 1:
            raise ModelError(f"{len(found)} .gguf files where one is expected", where=str(self.path), hint="keep one")
        return found[0]

    @property
    def name(self) -> str:
        """What the model is called: the name in its facts, else the folder's."""
        return str(self.manifest.get("facts", {}).get("name") or folder_name(self.path))


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle or a plain Hugging Face folder.

    Raises:
        ModelError: It is not a model folder, a manifest of another format, or weights that are only pickles.
    """
    path = Path(path)
    if not path.is_dir():
        hint = "give the folder, not a file in it" if path.exists() else "check the path, or: tuneloop runs"
        raise ModelError("no such model folder", where=str(path), hint=hint)
    if (path / MANIFEST).is_file():
        manifest = read_object(path / MANIFEST)
        if manifest.get("format") != FORMAT or manifest.get("kind") not in get_args(Kind):
            raise ModelError(
                f"bundle format {manifest.get('format')!r}, kind {manifest.get('kind')!r} is unknown here",
                where=str(path / MANIFEST),
                hint="it was written by another version: pip install -U tuneloop",
            )
        kind = cast(Kind, manifest["kind"])
        return Bundle(path, kind, manifest, _find_base(manifest.get("base") or {}) if kind == "adapter" else None)
    if (path / "adapter_config.json").is_file():
        named = str(read_object(path / "adapter_config.json").get("base_model_name_or_path") or "")
        return Bundle(path, "adapter", base=_find_base({"path": named, "name": named.rpartition("/")[2].lower()}))
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return Bundle(path, "model")
    if any(path.glob("*.gguf")):
        return Bundle(path, "gguf")
    if any(path.glob("*.bin")) or any(path.glob("*.pt*")):
        raise ModelError(
            "the weights are Python pickles, which can run any code when they are read",
            where=str(path),
            hint="get the safetensors version of this model, or convert it where you trust it",
        )
    raise ModelError(
        "this folder holds no model: config.json with .safetensors, or a .gguf file",
        where=str(path),
        hint="point to the folder that has them",
    )


def seal(
    path: Path, kind: Kind, facts: Mapping[str, Any], *, precision: str | None = None, base: Path | None = None
) -> Bundle:
    """Write model card and manifest (with the hash of every file) into a finished model folder.

    Args:
        path: The folder.
        kind: What it holds.
        facts: What should travel with it: name, licence, data hash, configuration, metrics. JSON only.
        precision: Of the weights, e.g. ``float32`` or ``q8_0``; default from ``config.json``.
        base: The model it was made from.
    """
    template = template_text(path)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "kind": kind,
        "precision": precision or Bundle(path, kind, base=base).precision,
        "base": _describe_base(base),
        "template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
        "facts": dict(facts),
        "tuneloop": __version__,
    }
    write_atomic(path / "README.md", model_card(manifest))
    files = track(content(path), f"hashing {path.name.lstrip('.')}", unit="files")
    manifest["files"] = {
        f.relative_to(path).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files
    }
    manifest["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_atomic(path / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    return Bundle(path, kind, manifest, base if kind == "adapter" else None)


def save_model_bundle(
    path: Path, model: Any, tokenizer: Any, facts: Mapping[str, Any], *, base: Path | None = None
) -> Bundle:
    """Save full weights (safetensors), tokenizer and template as a bundle, all or nothing."""
    return _save(path, "model", model, tokenizer, facts, base)


def save_adapter_bundle(path: Path, model: Any, tokenizer: Any, base: Path, facts: Mapping[str, Any]) -> Bundle:
    """Save a PEFT model's adapter, tokenizer and template as a bundle, all or nothing.

    Args:
        path: The folder to write.
        model: A ``peft.PeftModel``.
        tokenizer: The tokenizer it was trained with.
        base: The folder of the model below the adapter.
        facts: See ``seal``.
    """
    return _save(path, "adapter", model, tokenizer, facts, base)


def _save(path: Path, kind: Kind, model: Any, tokenizer: Any, facts: Mapping[str, Any], base: Path | None) -> Bundle:
    from tuneloop.models.load import quiet

    with staging(path) as folder, quiet():
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        if kind == "adapter" and base is not None:  # PEFT writes what the base was loaded from; make it the real place
            config = portable_settings(model, read_object(folder / "adapter_config.json"))
            config["base_model_name_or_path"] = str(base.resolve())
            write_atomic(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        seal(folder, kind, facts, precision=dtype, base=base)
    return open_bundle(path)


def verify(bundle: Bundle) -> None:
    """Compare every file with the manifest, and an adapter's base with the one it was trained on.

    A plain folder has no manifest, so there is nothing to compare.

    Raises:
        ModelError: A file is missing or has changed, the base is missing or another model, or the bundle was
            compressed and is not the model it was made from (it failed parity).
    """
    parity = (bundle.manifest.get("facts") or {}).get("parity")
    if parity is not None and not parity["ok"]:
        raise ModelError(
            f"this bundle failed parity with the model it was made from: {parity['reason']}",
            where=str(bundle.path),
            hint="serve the uncompressed bundle, or compress it again with more bits",
        )
    for name, seen in track(bundle.manifest.get("files", {}).items(), f"verifying {bundle.path.name}", unit="files"):
        file = bundle.path / name
        if not file.is_file():
            raise ModelError(f"the bundle lacks {name}", where=str(bundle.path), hint="make it again from its run")
        if file.stat().st_size != seen["bytes"] or sha256_file(file) != seen["sha256"]:
            raise ModelError(
                f"{name} is not the file that was saved (its SHA-256 differs)",
                where=str(bundle.path),
                hint="copy the bundle again, or make it again from its run",
            )
    if bundle.kind == "adapter":
        base = need_base(bundle)
        said = (bundle.manifest.get("base") or {}).get("fingerprint")
        if said and said != fingerprint(base):
            raise ModelError(
                f"the adapter was trained on another model than the one at {base}",
                where=str(bundle.path),
                hint="restore that model, or train the adapter again on this one",
            )


def need_base(bundle: Bundle) -> Path:
    """The folder of an adapter's base model.

    Raises:
        ModelError: It is not on this machine.
    """
    if bundle.base is None:
        base = bundle.manifest.get("base") or {}
        raise ModelError(
            f"the model below this adapter ({base.get('name', 'unknown')}) is not at {base.get('path', 'a known place')}",
            where=str(bundle.path),
            hint="bring it there, or merge adapter and base where both are",
        )
    return bundle.base


def _describe_base(base: Path | None) -> dict[str, str] | None:
    if base is None:
        return None
    return {"name": folder_name(base), "path": str(base.resolve()), "fingerprint": fingerprint(base)}


def _find_base(base: Mapping[str, str]) -> Path | None:
    """Where the base was, else a model of that name in the model cache."""
    places = [Path(base["path"])] if base.get("path") else []
    places += [store.home() / "models" / base["name"]] if base.get("name") else []
    return next((p for p in places if p.is_dir()), None)
