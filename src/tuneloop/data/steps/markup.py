"""HTML leftovers: tags and entities, only where the markup is real."""

from __future__ import annotations

import html
from typing import ClassVar

import polars as pl

from tuneloop.data.frame import rewrite
from tuneloop.data.steps import StepBase

_BLOCK = (
    "address|article|aside|blockquote|body|br|center|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|head|header|hr|html|li|"
    "main|nav|ol|option|p|pre|section|select|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|button|cite|code|col|colgroup|del|dfn|em|font|i|iframe|img|input|ins|kbd|label|link|mark|meta|"
    "q|s|samp|small|span|strike|strong|sub|sup|svg|time|tt|u|var|wbr|video|audio|o:p"
)
_ATTRIBUTES = r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+))*"""
"""Attributes need a value: ``a <b and c> d`` is arithmetic, not a tag."""
_BLOCK_TAG = rf"(?i)[ \t]*</?(?:{_BLOCK}){_ATTRIBUTES}\s*/?>[ \t]*"
_INLINE_TAG = rf"(?i)</?(?:{_INLINE}){_ATTRIBUTES}\s*/?>"
_UNSEEN = r"(?is)<(?:script|style)(?:\s[^<>]*)?>.*?</(?:script|style)\s*>|<!--.*?-->"
_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"
_IS_CODE = r"(?i)```|<!doctype|<html[\s>]|<script[\s>]"
"""Rows that talk about HTML keep it."""
_DEEPEST = 4
"""Exports escape the same text again and again; nobody was seen to do it more often."""


class StripHtml(StepBase):
    """Removes real tags and comments, turns block tags into line breaks and entities into characters."""

    name: ClassVar[str] = "html"

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return rewrite(frame, self.name, strip_html)


def strip_html(texts: pl.Series) -> pl.Series:
    """Text without markup; ``a < b``, ``<john@mail.example>`` and code are left alone."""
    has_markup = texts.str.contains(r"[<&]") & ~texts.str.contains(_IS_CODE)
    before = texts.filter(has_markup).unique()
    after = before
    for _ in range(_DEEPEST):
        cleaned = _strip_once(after)
        if (cleaned == after).all():
            break
        after = cleaned
    different = after != before
    after = after.str.strip_chars()  # the line breaks of block tags at the ends
    if not different.any():
        return texts
    replaced = texts.replace(before.filter(different), after.filter(different))
    return texts.zip_with(~has_markup, replaced)


def _strip_once(texts: pl.Series) -> pl.Series:
    bare = texts.str.replace_all(_UNSEEN, " ").str.replace_all(_BLOCK_TAG, "\n").str.replace_all(_INLINE_TAG, "")
    escaped = bare.filter(bare.str.contains(_ENTITY)).unique()
    if not escaped.len():
        return bare
    plain = pl.Series([html.unescape(text) for text in escaped], dtype=pl.String)
    return bare.replace(escaped, plain)
