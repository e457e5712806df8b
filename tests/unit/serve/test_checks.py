"""What a hostile client may send: heads and JSON texts, without a socket."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install 'tuneloop[serve]'")

from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.serve.api_error import ApiError
from tuneloop.serve.asked import Asked
from tuneloop.serve.checks import check_asked, check_head, check_json
from tuneloop.serve.shield import ShieldConfig
from tuneloop.types import Grammar, Message

CONFIG = ShieldConfig(max_json_depth=4, max_json_items=100)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def depth(value: Any) -> int:
    """The plain definition: how many arrays and objects are around the innermost value."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@settings(max_examples=300, deadline=None)
@given(JSON, st.sampled_from([(",", ":"), (", ", ": ")]), st.booleans())
def test_json_is_refused_exactly_when_it_is_nested_too_deeply(
    value: Any, separators: tuple[str, str], ascii_only: bool
) -> None:
    body = json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode()
    if depth(value) <= 4:
        check_json(CONFIG, body)
    else:
        with pytest.raises(ApiError, match="400"):
            check_json(CONFIG, body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 4 + b"1" + b"]" * 4, None),
        (b"[" * 5 + b"1" + b"]" * 5, "nested more than 4 deep"),
        (b'{"a": [1, 2', "not closed"),
        (b'{"a": "b', "not closed"),
        (b"[" * 50, "not closed"),
        (b"[1]]", "not opened"),
    ],
)
def test_what_is_too_deep_is_told_from_what_was_cut_short(body: bytes, said: str | None) -> None:
    if said is None:
        check_json(CONFIG, body)
        return
    with pytest.raises(ApiError, match=said):
        check_json(CONFIG, body)


@pytest.mark.parametrize(
    "text", ['{"a": "[[[[[[[["}', '{"a": "\\"[[[[[["}', '["\\\\", "[[[[[["]', '{"[[[[[[": "]]]"}', '"\\\\\\"[[[[[["']
)
def test_brackets_within_strings_do_not_count(text: str) -> None:
    json.loads(text)
    check_json(CONFIG, text.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b"[" * 500_000 + b"]" * 500_000,
        b'{"a":' * 150_000,
        b'"' + b'\\"' * 500_000,
        b"\\" * 1_000_000,
        b'["' * 300_000,
        b"[]" * 500_000,
        b"{}[" * 330_000,
        b"[" + b"1," * 500_000 + b"1]",
    ],
)
def test_a_megabyte_of_the_worst_is_refused_or_passed_in_no_time(body: bytes) -> None:
    """0.5 s is fifty times what it takes; anything quadratic would take hours."""
    begun = time.perf_counter()
    with suppress(ApiError):
        check_json(ShieldConfig(), body)
    assert time.perf_counter() - begun < 0.5


def test_too_many_items_are_refused_before_anything_is_built() -> None:
    check_json(CONFIG, json.dumps({"a": [0] * 90}).encode())
    for many in ([0] * 200, [{}] * 90, {str(i): 1 for i in range(200)}):
        with pytest.raises(ApiError) as caught:
            check_json(CONFIG, json.dumps(many).encode())
        assert caught.value.code == "json_too_large"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-16-be"])
def test_json_in_another_encoding_is_refused_as_python_would_read_it_past_the_checks(encoding: str) -> None:
    """U+2200 holds the byte of a quotation mark: in UTF-16 it would hide the brackets that follow."""
    body = ('{"a": "' + "\u2200" + '", "b": ' + "[" * 50 + "]" * 50 + "}").encode(encoding)
    assert json.loads(body)
    with pytest.raises(ApiError) as caught:
        check_json(CONFIG, body)
    assert caught.value.code == "invalid_json"


def head(path: bytes = b"/", query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {"raw_path": path, "query_string": query, "headers": headers or [], "http_version": "1.1"}


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        (head(b"/" + b"x" * 2048), 414),
        (head(query=b"x" * 2048), 414),
        (head(headers=[(b"x-%d" % i, b"") for i in range(65)]), 431),
        (head(headers=[(b"x", b"y" * 32_768)]), 431),
        (head() | {"http_version": "2.0"}, 400),
        (head(headers=[(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]), 400),
        (head(headers=[(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]), 400),
        (head(headers=[(b"host", b"a"), (b"host", b"b")]), 400),
    ],
)
def test_a_head_that_is_too_large_or_ambiguous_is_refused(scope: dict[str, Any], status: int) -> None:
    check_head(ShieldConfig(), head(b"/" + b"x" * 2047, headers=[(b"x-%d" % i, b"") for i in range(64)]))
    with pytest.raises(ApiError) as caught:
        check_head(ShieldConfig(), scope)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (Asked(messages=(Message("user", "x"),) * 3), "messages"),
        (Asked(prompts=("a", "b"), n=2), "n"),
        (Asked(prompts=("a",), max_tokens=11), "max_tokens"),
        (Asked(prompts=("a",), stops=("a", "b", "c")), "stop"),
        (Asked(prompts=("a",), grammar=Grammar("{" + " " * 80 + "}")), "response_format"),
        (Asked(prompts=("a",), tools="x" * 81), "tools"),
    ],
)
def test_a_call_that_asks_for_too_much_is_refused_by_name(asked: Asked, param: str) -> None:
    config = ShieldConfig(max_messages=2, max_n=3, max_tokens=10, max_stops=2, max_schema_bytes=80)
    at_most = Asked(messages=(Message("user", "x"),) * 2, n=3, max_tokens=10, stops=("a", "b"), grammar=Grammar("{}"))
    check_asked(config, at_most)
    with pytest.raises(ApiError) as caught:
        check_asked(config, asked)
    assert (caught.value.status_code, caught.value.param) == (400, param)
