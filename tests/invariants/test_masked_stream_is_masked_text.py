"""What a masker gives for a text that comes in pieces is what it gives for the whole, however the text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuneloop.data.personal import Masker, find, hints, mask
from tuneloop.data.personal.pseudonyms import Pseudonyms
from tuneloop.data.personal.scan import WINDOW

KEY = b"not a secret, a test"
PARTS = [
    "13800138000", "138 0013 8000", "+86 138-0013-8000", "１３８００１３８０００", "010-62345678", "(212) 555-0123", "467 3395",
    "GB29 NWBK 6016 1331 9268 19", "4111 1111 1111 1111", "11010519491231002X", "110105491231002", "91110000600037341L",
    "078-05-1120", "E12345678", "京A12345", "京A D12345", "粤", "192.168.0.1", "2001:db8::1", "a.b@c.example", "@",
    "https://u:pw-1@host.example/", "?token=abcdef123456", "sk-" + "a1" * 15, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0",
    "-----BEGIN RSA PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0B", "\nQUJD\nQUJDREVG", "-----END", "\\n",
    "passport number ", "电话：", "phone: ", "订单号", "SSN ", "2024-01-02 12:30:45", "[PHONE]", "王", "，", "。", "Ｘ", "\n",
    " ", "  ", "   ", "abc", "12", "1", "a", "-", "+", ".", ":", "/", "=", "x123", " ext ", "\0", "é", "😀",
    "A" * 300, "1" * 300, "1 2" * 100, "sk-" + "a1" * 400,
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=14).map("".join)


def streamed(text: str, cuts: list[int], key: bytes | None = None) -> tuple[str, int]:
    """The output, and the most that was ever held back after a piece."""
    masker, out, held = Masker(key=key), [], 0
    for start, end in itertools.pairwise([0, *cuts, len(text)]):
        out.append(masker.feed(text[start:end]))
        held = max(held, masker.held)
    return "".join([*out, masker.finish()]), held


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.data())
def test_any_cuts(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    assert streamed(text, cuts)[0] == mask(text)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(TEXTS)
@example("1" * 2 * WINDOW + " 13800138000")
@example("-----BEGIN PRIVATE KEY-----\n" + "QUJD" * WINDOW + "\n" * 9 + "QUJD")
def test_character_by_character_within_the_bound(text: str) -> None:
    out, held = streamed(text, list(range(1, len(text))))
    assert out == mask(text)
    assert held <= WINDOW + 8


@pytest.mark.parametrize(
    "text", ["电话：0044 7700 900 456，GB29 NWBK 6016 1331 9268 19 or a.b@c.example", "京A D12345 SSN 078-05-1120\n"]
)
def test_every_pair_of_cuts(text: str) -> None:
    for cuts in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        assert streamed(text, list(cuts))[0] == mask(text)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.data())
def test_pseudonyms_in_a_stream_are_those_of_the_whole(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    assert streamed(text, cuts, KEY)[0] == mask(text, replace=Pseudonyms(KEY).of)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS)
def test_a_masked_text_stays_as_it_is(text: str) -> None:
    assert mask(mask(text)) == mask(text)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS)
def test_spans_are_in_order_and_apart(text: str) -> None:
    spans = find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert not spans or hints.any_in(text)
