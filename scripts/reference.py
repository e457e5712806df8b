"""Write the tables of steps and makers in docs/data.md from the classes themselves.

python scripts/reference.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tuneloop.data import makers, steps

PAGE = Path(__file__).resolve().parent.parent / "docs" / "data.md"


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


def _default(value: object) -> str:
    shown = repr(value)
    return f"({shown})" if len(shown) <= 40 and "PydanticUndefined" not in shown else ""


def _flat(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def render(page: str) -> str:
    """The page with both tables renewed."""
    for name, registry in (("steps", steps), ("makers", makers)):
        block = f"<!-- {name} -->\n{table(registry)}\n<!-- /{name} -->"
        page = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, b=block: b, page, flags=re.S)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
