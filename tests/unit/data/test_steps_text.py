"""Repair, markup, whitespace: what is changed and, as important, what is not."""

from __future__ import annotations

import polars as pl
import pytest

from tuneloop.data.steps.markup import strip_html
from tuneloop.data.steps.text import repair, whitespace


def one(function: object, text: str) -> str:
    out: str = function(pl.Series([text]))[0]  # type: ignore[operator]
    return out


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("Youâ€™ve sent me Â£100", "You’ve sent me £100"),
        ("cafÃ©", "café"),
        ("cafÃƒÂ©", "café"),  # damaged twice
        ("e\u0301te\u0301", "été"),  # normal form C
        ("a\x00b\x07c\ufeffd", "abcd"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("“您好，全角！”ＡＢＣ１２３", "“您好，全角！”ＡＢＣ１２３"),
        ("it’s &amp; fine — 5 €", "it’s &amp; fine — 5 €"),
        ("Ärger über Größe, señor, naïve", "Ärger über Größe, señor, naïve"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_repair(text: str, repaired: str) -> None:
    assert one(repair, text) == repaired


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<p>Hello</p>", "Hello"),
        ('<div dir="ltr">one<br/>two</div>', "one\ntwo"),
        ('see <a href="https://x.example/?a=1&b=2">this</a>', "see this"),
        ("I&#39;m &quot;sad&quot;&nbsp;&amp; tired", 'I\'m "sad"\xa0& tired'),
        ("&lt;b&gt;bold&lt;/b&gt; &amp;amp; more", "bold & more"),
        ("a<!-- hidden -->b<style>p{color:red}</style>", "a b"),
        ("<SPAN STYLE='x:1'>big</SPAN>", "big"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("a <b and c> d", "a <b and c> d"),
        ("x<y, y>z", "x<y, y>z"),
        ("a < b > c", "a < b > c"),
        ("mail <john@mail.example>", "mail <john@mail.example>"),
        ("AT&T & co; R&D;", "AT&T & co; R&D;"),
        ("I <3 you", "I <3 you"),
        ("List<String> items", "List<String> items"),
        ("<think>hm</think>", "<think>hm</think>"),
        ("```html\n<p>code</p>\n```", "```html\n<p>code</p>\n```"),
        ("<!DOCTYPE html><html><body>x</body></html>", "<!DOCTYPE html><html><body>x</body></html>"),
    ],
)
def test_markup(text: str, plain: str) -> None:
    assert one(strip_html, text) == plain


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("  a\xa0 b\t\tc  ", "a b c"),
        ("你好\u3000世界", "你好 世界"),
        ("a\u200bb\u2060c", "abc"),
        ("a  \n\n\n\n b", "a\n\n b"),
        ("def f():\n    return 1\n", "def f():\n    return 1"),
        ("```\na    b\n```", "```\na    b\n```"),
        ("\n\na\n\n", "a"),
    ],
)
def test_whitespace(text: str, tidy: str) -> None:
    assert one(whitespace, text) == tidy


@pytest.mark.parametrize("function", [repair, strip_html, whitespace])
def test_order_and_length_are_kept(function: object) -> None:
    texts = pl.Series(["plain", "<p>cafÃ©  </p>", "", "plain"])
    out = function(texts)  # type: ignore[operator]
    assert len(out) == 4
    assert out[0] == out[3] == "plain"
    assert out[2] == ""
