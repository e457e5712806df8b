"""W3C Trace Context; the examples are those of the standard (section 3.2.3)."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="pip install 'tuneloop[serve]'")

from tuneloop.serve.trace import Trace

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_trace_goes_on_under_a_span_of_our_own() -> None:
    trace = Trace.of(f"00-{TRACE}-{PARENT}-01")
    assert trace is not None
    assert (trace.trace_id, trace.parent_id, trace.flags) == (TRACE, PARENT, "01")
    assert trace.traceparent == f"00-{TRACE}-{trace.span_id}-01"
    assert trace.span_id != PARENT


def test_a_later_version_with_more_fields_is_read() -> None:
    trace = Trace.of(f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like")
    assert trace is not None
    assert trace.trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\nx",
    ],
)
def test_an_invalid_header_is_as_none(header: str) -> None:
    assert Trace.of(header) is None
