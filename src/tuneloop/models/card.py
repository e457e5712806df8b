"""The model card (README.md of a bundle), written from the manifest: nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TITLE = {"model": "Model", "adapter": "Adapter", "gguf": "GGUF model"}


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    facts: Mapping[str, Any] = manifest["facts"]
    base = manifest.get("base") or {}
    name = str(facts.get("name") or base.get("name") or "model")
    head = ["---", "library_name: peft" if manifest["kind"] == "adapter" else "library_name: transformers"]
    if licence := facts.get("licence"):
        head.append(f"license: {licence}")
    head += ["tags: [tuneloop]", "---", "", f"# {name}", ""]
    lines = [
        f"{_TITLE[manifest['kind']]} made with Tuneloop {manifest['tuneloop']}, weights in {manifest['precision']}.",
        "",
        "| | |",
        "|---|---|",
    ]
    if base:
        lines.append(f"| made from | {base['name']} (`{base['fingerprint'][:12]}`) |")
    if manifest.get("template_sha256"):
        lines.append(f"| chat template | `{manifest['template_sha256'][:12]}` |")
    lines += [f"| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in facts.items() if key != "name"]
    return "\n".join([*head, *lines, "", "Hashes of every file: `tuneloop.json`.", ""])


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
