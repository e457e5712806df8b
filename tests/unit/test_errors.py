"""The exception tree: two lines, one exit code a kind."""

from __future__ import annotations

import pytest

from tuneloop import errors


def tree(root: type[errors.TuneloopError]) -> list[type[errors.TuneloopError]]:
    return [root, *(c for sub in root.__subclasses__() for c in tree(sub))]


def test_each_kind_has_its_own_exit_code() -> None:
    kinds = [c for c in tree(errors.TuneloopError) if c.__module__ == errors.__name__]
    assert sorted(c.exit_code for c in kinds) == [1, 2, 3, 4, 5, 6, 7, 8, 75]


@pytest.mark.parametrize(
    ("where", "hint", "text"),
    [
        ("a.csv:3", "quote it", "a.csv:3: broken\nhint: quote it"),
        ("a.csv:3", None, "a.csv:3: broken"),
        (None, "quote it", "broken\nhint: quote it"),
        (None, None, "broken"),
    ],
)
def test_text(where: str | None, hint: str | None, text: str) -> None:
    assert str(errors.DataError("broken", where=where, hint=hint)) == text


def test_need_returns_the_module() -> None:
    import json

    assert errors.need("json", "train") is json


def test_need_names_the_extra() -> None:
    with pytest.raises(errors.MissingExtraError, match="no_such_module_here is not installed") as caught:
        errors.need("no_such_module_here", "train")
    assert caught.value.hint == "pip install 'tuneloop[train]'"
