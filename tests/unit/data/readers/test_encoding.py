"""Bytes -> text, whatever wrote them."""

from __future__ import annotations

import pytest

from tuneloop.data.readers.encoding import decode, replace_surrogates
from tuneloop.errors import DataError

CHINESE = "科室,标题,问题,回答\r\n心血管科,高血压,高血压患者能吃党参吗？,高血压病人可以口服党参的。\r\n" * 3
JAPANESE = "名前,年齢,住所\r\n佐藤太郎,30,東京\r\n三木英子,25,大阪\r\nそれは何ですか,35,名古屋\r\n"
FRENCH = "text,label\nLa carte n'a pas été reçue à l'hôtel,carte\nÇa coûte très cher où ça,frais\n"


@pytest.mark.parametrize(
    ("text", "codec", "encoding"),
    [
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "utf-8", "utf-8"),
        (CHINESE, "utf-8-sig", "utf-8"),
        (CHINESE, "utf-16", "utf-16-le"),
        (CHINESE, "utf-16-le", "utf-16-le"),
        (CHINESE, "utf-16-be", "utf-16-be"),
        (CHINESE, "utf-32", "utf-32-le"),
        (JAPANESE, "cp932", "cp932"),
        (FRENCH, "cp1252", "cp1252"),
        (FRENCH, "utf-16-le", "utf-16-le"),
    ],
)
def test_encoding_is_found_without_being_told(text: str, codec: str, encoding: str) -> None:
    found = decode(text.encode(codec), "rows.csv")

    assert found.encoding == encoding
    assert found.lines == text.splitlines()
    assert not found.bad_lines


def test_one_damaged_byte_does_not_turn_utf8_into_another_encoding() -> None:
    lines = [f"第{i}行".encode() for i in range(10)]
    lines[4] = lines[4][:-1]

    found = decode(b"\n".join(lines), "rows.txt")

    assert found.encoding == "utf-8"
    assert found.bad_lines == {4}
    assert found.lines[3] == "第3行"
    assert found.lines[4].startswith("第4\\xe8")


def test_one_damaged_byte_in_one_long_line_does_not_turn_utf8_into_another_encoding() -> None:
    data = "我的银行卡还没有收到".encode() * 20
    found = decode(data[:100] + b"\xff" + data[100:], "rows.json")
    assert found.encoding == "utf-8"
    assert found.bad_lines == {0}


def test_damaged_line_of_a_gb18030_file_is_marked_and_the_others_are_read() -> None:
    lines = [f"{i},我的银行卡还没有收到请问什么时候能寄到".encode("gb18030") for i in range(20)]
    lines[7] += b"\xff\xff"

    found = decode(b"\n".join(lines), "rows.csv")

    assert found.encoding == "gb18030"
    assert found.bad_lines == {7}
    assert found.lines[8] == "8,我的银行卡还没有收到请问什么时候能寄到"


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n"])
def test_empty_file_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="empty") as error:
        decode(data, "rows.csv")
    assert str(error.value).splitlines() == [
        "rows.csv:1: the file is empty",
        "hint: check the export that wrote it",
    ]


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"PK\x03\x04abc", "XLSX"), (b"\x1f\x8b\x08", "gzip"), (b"PAR1....", "Parquet"), (b"%PDF-1.7", "PDF")],
)
def test_known_binary_files_are_named(data: bytes, word: str) -> None:
    with pytest.raises(DataError, match=word):
        decode(data, "rows.csv")


def test_bytes_full_of_zeros_are_refused_with_the_line_of_the_first() -> None:
    data = b"text,label\nabc\x00\x00\x00def" + b"\x00\x00\x01\x02" * 40
    with pytest.raises(DataError, match="zero bytes") as error:
        decode(data, "rows.csv")
    assert error.value.where == "rows.csv:2"


def test_named_encoding_is_obeyed_and_a_byte_that_does_not_fit_is_named_with_its_line() -> None:
    assert decode("é".encode("latin-1") + b",x", "rows.csv", "latin-1").lines == ["é,x"]
    with pytest.raises(DataError, match="byte 0xe9 in line 2 is not utf-8") as error:
        decode(b"text\n\xe9,x", "rows.csv", "utf-8")
    assert error.value.where == "rows.csv:2"


def test_only_line_feeds_and_carriage_returns_end_a_line() -> None:
    assert decode("a\u2028b\x0bc\r\nd\re\n".encode(), "rows.txt").lines == ["a\u2028b\x0bc", "d", "e"]


def test_half_a_character_becomes_the_replacement_character() -> None:
    assert replace_surrogates("a\ud83db") == "a\ufffdb"
    assert replace_surrogates("😀") == "😀"
