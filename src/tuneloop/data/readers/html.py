"""A web page -> its article as Markdown, with title and date; menus, advertisements and comments are left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tuneloop.data.readers import ReadOptions
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import DataError, need

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml[^>]{0,100}?encoding=[\"']([\w.:-]+)", re.I
)
_DECLARED_WITHIN_BYTES = 4096
_AS_BROWSERS_READ = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "ascii", "us-ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    "big5": "big5hkscs",
    "iso-8859-9": "cp1254",
}
"""Names that pages use -> the encoding that browsers use for them (WHATWG Encoding Standard, section 4.2)."""
_NEVER = "script, style, noscript, template, svg, nav, aside, form, iframe"


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Read a page as one row; a page without text becomes a row with its reason.

    Raises:
        MissingExtraError: The documents extra is not installed.
        DataError: ``data.encoding`` is not the encoding of the page.
    """
    facts: dict[str, Any] = {"encoding": "?", "bad_characters": 0}
    return RawFile.start(name, [_row(path, name, options, facts)], None, facts)


def _row(path: Path, name: str, options: ReadOptions, facts: dict[str, Any]) -> RawRow:
    data = path.read_bytes()
    if not data.strip():
        return RawRow(1, "", problem=(READ, "empty: the file has no text"))
    source, facts["encoding"] = decode(data, name, options.encoding)
    facts["bad_characters"] = source.count("\ufffd")
    article = extract(source, options.documents.html)
    if not article["text"]:
        return RawRow(1, "", problem=(READ, "no text: the page holds none outside menus and scripts"))
    return RawRow(1, article["text"], article)


def decode(data: bytes, name: str, encoding: str | None = None) -> tuple[str, str]:
    """Text and encoding of a page: byte-order mark, strict UTF-8, what the page declares, then detection.

    UTF-8 comes before the declaration: text that is not UTF-8 hardly ever passes for it, and declarations are often
    left over from a template. Bytes that do not fit become U+FFFD.

    Raises:
        DataError: The page does not have the encoding asked for.
    """
    if encoding:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), encoding
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte 0x{data[error.start]:02x} at {error.start:,} is not {encoding}",
                where=f"{name}:1",
                hint="leave data.encoding out to have it detected",
            ) from None
    for mark, found in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(found, "replace"), found
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        found = _declared(data) or _guessed(data) or "utf-8"
        return data.decode(found, "replace"), found


def _declared(data: bytes) -> str | None:
    said = _DECLARED.search(data[:_DECLARED_WITHIN_BYTES])
    label = (said[1] or said[2]).decode("ascii").lower() if said else ""
    label = _AS_BROWSERS_READ.get(label, label)
    try:
        text = data.decode(label, "replace") if label else ""
    except LookupError:
        return None
    return label if text and text.count("\ufffd") <= len(text) / 100 else None


def _guessed(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    return best.encoding if best is not None else None


def extract(source: str, favour: str) -> dict[str, str]:
    """The article of a page.

    Args:
        source: The page.
        favour: ``precision``, ``balanced`` or ``recall``. Where nothing is found, the more generous ones are tried, and
            at last the text of the whole body.

    Returns:
        ``text`` (Markdown; empty: there is none), ``title``, ``date`` (ISO 8601; empty: unknown).
    """
    trafilatura = need("trafilatura", "documents")
    # htmldate's own upper limit is today: the result would depend on the day.
    about = trafilatura.extract_metadata(
        source, date_config={"original_date": True, "extensive_search": False, "max_date": "2100-01-01"}
    )
    modes = ("precision", "balanced", "recall")
    for mode in modes[modes.index(favour) :]:
        text = trafilatura.extract(
            source, output_format="markdown", include_comments=False, include_tables=True, include_formatting=True,
            favor_precision=mode == "precision", favor_recall=mode == "recall",
        )  # fmt: skip
        if text and text.strip():
            return {"text": text.strip(), "title": " ".join((about.title or "").split()), "date": about.date or ""}
    return _body(source)


def _body(source: str) -> dict[str, str]:
    """Every visible line of the page: what short pages and pages of tables alone come down to."""
    tree = need("selectolax.lexbor", "documents").LexborHTMLParser(source)
    title = tree.css_first("title")
    words = " ".join(title.text().split()) if title else ""
    for node in tree.css(_NEVER):
        node.decompose()
    body = tree.body.text(separator="\n") if tree.body else ""
    lines = (" ".join(line.split()) for line in body.splitlines())
    return {"text": "\n".join(line for line in lines if line), "title": words, "date": ""}
