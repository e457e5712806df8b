"""The tables of the pages are those of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["data.md", "training.md"])
def test_the_tables_of_a_page_are_up_to_date(name: str) -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert reference.render(name, page) == page, "run: python scripts/reference.py"
