"""Web pages: encodings, what is kept and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.html import decode, read
from tuneloop.data.rows import RawRow
from tuneloop.errors import DataError

pytest.importorskip("trafilatura", reason="needs the documents extra", exc_type=ImportError)
pytest.importorskip("selectolax", reason="needs the documents extra", exc_type=ImportError)

PARAGRAPH = "The quick brown fox jumps over the lazy dog while the farmer counts his sheep in the evening. " * 4
PAGE = f"""<html><head><title>Foxes and dogs</title><meta property="article:published_time" content="2024-03-05"></head>
<body><nav><a href="/">Home</a> <a href="/shop">Shop</a></nav><article><h1>Foxes and dogs</h1><h2>Evening</h2>
<p>{PARAGRAPH}</p><table><tr><th>Animal</th><th>Count</th></tr><tr><td>fox</td><td>3</td></tr></table>
<p>{PARAGRAPH}</p></article><footer>Copyright nobody</footer><script>var tracker = 1;</script></body></html>"""


def row(tmp_path: Path, page: str | bytes, **options: str) -> RawRow:
    path = tmp_path / "page.html"
    path.write_bytes(page.encode() if isinstance(page, str) else page)
    (only,) = read(path, "page.html", ReadOptions(**options)).rows  # type: ignore[arg-type]
    return only


def test_the_article_is_kept_with_its_title_and_date(tmp_path: Path) -> None:
    found = row(tmp_path, PAGE)
    assert found.fields["title"] == "Foxes and dogs"
    assert found.fields["date"] == "2024-03-05"
    assert "## Evening" in found.raw
    assert found.raw.count("The quick brown fox") == 8


def test_menus_footers_and_scripts_are_left_out(tmp_path: Path) -> None:
    text = row(tmp_path, PAGE).raw
    assert not [word for word in ("Shop", "Copyright", "tracker") if word in text]


def test_tables_are_kept(tmp_path: Path) -> None:
    lines = [line.replace(" ", "") for line in row(tmp_path, PAGE).raw.splitlines()]
    assert "|Animal|Count|" in lines
    assert "|fox|3|" in lines


def test_a_page_with_one_short_sentence_gives_its_visible_text(tmp_path: Path) -> None:
    found = row(tmp_path, "<title>Note</title><body><script>x()</script><div>Closed today.</div></body>")
    assert found.raw.splitlines()[-1] == "Closed today."
    assert "x()" not in found.raw


@pytest.mark.parametrize("page", ["<html><body><script>only()</script></body></html>", "  \n"])
def test_a_page_without_text_is_a_row_with_its_reason(page: str, tmp_path: Path) -> None:
    found = row(tmp_path, page)
    assert found.problem is not None
    assert found.problem[1].split(":")[0] in ("no text", "empty")


CHINESE = "中文网页的编码常常写错，所以先按实际字节来判断。" * 8


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        ("é".encode(), "utf-8"),
        (b"\xef\xbb\xbf" + "é".encode(), "utf-8"),
        ("é".encode("utf-16"), "utf-16-le"),
        (b'<meta charset="iso-8859-1">\x93quoted\x94', "cp1252"),
        (b'<meta charset="iso-8859-1">' + "é".encode(), "utf-8"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=gb2312">' + CHINESE.encode("gb18030"), "gb18030"),
        (b'<?xml version="1.0" encoding="Shift_JIS"?>' + "日本語".encode("cp932"), "cp932"),
        (b'<meta charset="utf-8">' + CHINESE.encode("gb18030"), "gb18030"),
    ],
    ids=["utf-8", "mark", "utf-16", "declared latin-1", "wrongly declared", "declared gb2312", "xml", "wrong utf-8"],
)  # fmt: skip
def test_encodings(page: bytes, encoding: str) -> None:
    assert decode(page, "page.html")[1] == encoding


def test_latin_1_is_read_as_browsers_read_it() -> None:
    assert decode(b'<meta charset="iso-8859-1">\x93quoted\x94', "page.html")[0].endswith("“quoted”")


def test_an_encoding_that_was_asked_for_must_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not ascii"):
        row(tmp_path, "é", encoding="ascii")
