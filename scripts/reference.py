"""Write the tables in docs/data.md (steps, makers), docs/training.md and docs/serving.md (options) from the classes themselves.

python scripts/reference.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from tuneloop.config import Config
from tuneloop.data import makers, steps
from tuneloop.serve import ServeConfig
from tuneloop.train import TrainConfig

DOCS = Path(__file__).resolve().parent.parent / "docs"


def table(registry: object) -> str:
    """One row a class: its name, its first sentence, its options with their descriptions."""
    lines = ["| name | what it does | options |", "|---|---|---|"]
    for name in registry.BUILT_IN:  # type: ignore[attr-defined]
        kind = registry.class_of(name)  # type: ignore[attr-defined]
        said = " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())
        options = [
            f"`{key}` {_default(field.default)}: {_flat(field.description or '')}"
            for key, field in kind.model_fields.items()
        ]
        lines.append(f"| `{name}` | {_flat(said)} | {'<br>'.join(options) or '–'} |")
    return "\n".join(lines)


def options(schema: type[Config], prefix: str) -> str:
    """One row a key, sections after the keys that stand alone."""
    lines = ["| key | default | what it is |", "|---|---|---|"]
    sections: list[str] = []
    for key, field in schema.model_fields.items():
        inner = next((c for c in _classes(field.annotation)), None)
        if inner is None or prefix.startswith("stages"):  # a section of a stage is that of the run
            lines.append(f"| `{prefix}{key}` | {_default(field.default)[1:-1]} | {_flat(field.description or '')} |")
        else:
            sections += options(inner, f"{prefix}{key}{'[]' if key == 'stages' else ''}.").splitlines()[2:]
    return "\n".join([*lines, *sections])


def _classes(annotation: object) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _classes(part)]


def _default(value: object) -> str:
    shown = repr(value)
    return f"({shown})" if len(shown) <= 40 and "PydanticUndefined" not in shown else ""


def _flat(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "data.md": {"steps": lambda: table(steps), "makers": lambda: table(makers)},
    "training.md": {"options": lambda: options(TrainConfig, "")},
    "serving.md": {"options": lambda: options(ServeConfig, "")},
}


def render(name: str, page: str) -> str:
    """A page with its tables renewed."""
    for block, write in BLOCKS[name].items():
        text = f"<!-- {block} -->\n{write()}\n<!-- /{block} -->"
        page = re.sub(rf"<!-- {block} -->.*?<!-- /{block} -->", lambda _, t=text: t, page, flags=re.S)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    for name in BLOCKS:
        path = DOCS / name
        path.write_text(render(name, path.read_text(encoding="utf-8")), encoding="utf-8")
