"""Scans: order of recognised boxes without any model; images, pages and the network with it."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import pytest

from tuneloop.data.documents import DocumentConfig
from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.scan import read, read_order
from tuneloop.data.rows import RawFile


def quad(left: float, top: float, width: float, height: float, angle: float = 0.0) -> list[list[float]]:
    """A rectangle turned around the origin."""
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return [
        [x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)] for x, y in corners
    ]  # fmt: skip


def lines(found: list[tuple[list[list[float]], str]]) -> list[str]:
    return [line.text for block in read_order(found) for line in block]


@pytest.mark.parametrize("degrees", [-8, 0, 8])
def test_lines_of_a_slanted_page_stay_lines(degrees: int) -> None:
    angle = math.radians(degrees)
    words = [(quad(310 * c, 30 * r, 300, 20, angle), f"{r}{c}") for r in range(4) for c in range(3)]
    assert lines(words) == ["00 01 02", "10 11 12", "20 21 22", "30 31 32"]


def test_vertical_text_is_read_from_right_to_left() -> None:
    columns = [(quad(0, 0, 20, 200), "第三列"), (quad(80, 0, 20, 200), "第一列"), (quad(40, 0, 20, 200), "第二列")]
    assert lines(columns) == ["第一列", "第二列", "第三列"]


@pytest.fixture(scope="module")
def word() -> Any:
    """A picture of words large enough to be recognised without doubt."""
    for module in ("rapidocr", "onnxruntime"):
        pytest.importorskip(module, reason="needs the ocr extra", exc_type=ImportError)
    draw, font, image = (pytest.importorskip(f"PIL.{name}") for name in ("ImageDraw", "ImageFont", "Image"))

    def make(text: str) -> Any:
        made = image.new("RGB", (400, 400), "white")
        draw.Draw(made).text((20, 160), text, font=font.load_default(48), fill="black")
        return made

    return make


def opened(path: Path, **settings: Any) -> RawFile:
    return read(path, path.name, ReadOptions(documents=DocumentConfig(**settings)))


def test_recognition_never_asks_the_network(word: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneloop.data.readers import scan

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    scan.engine.cache_clear()
    word("INVOICE 2024").save(tmp_path / "a.png")
    (row,) = opened(tmp_path / "a.png").rows
    assert row.raw == "INVOICE 2024"
    assert row.fields["ocr_confidence"] > 0.9


def test_the_rotation_of_a_photo_is_undone(word: Any, tmp_path: Path) -> None:
    turned = word("INVOICE 2024").transpose(2)  # PIL.Image.Transpose.ROTATE_90, counter-clockwise
    exif = turned.getexif()
    exif[0x0112] = 6  # Exif 2.3, orientation: rotate by 90 degrees clockwise to show
    turned.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert [row.raw for row in opened(tmp_path / "a.jpg").rows] == ["INVOICE 2024"]


def test_each_page_of_a_tiff_is_a_row(word: Any, tmp_path: Path) -> None:
    word("FIRST").save(tmp_path / "a.tif", save_all=True, append_images=[word("SECOND")])
    assert [(r.origin("a.tif"), r.raw) for r in opened(tmp_path / "a.tif").rows] == [
        ("a.tif:p1", "FIRST"), ("a.tif:p2", "SECOND"),
    ]  # fmt: skip


def test_transparent_paper_is_white(word: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    dark = word("INVOICE").convert("L").point(lambda v: 255 - v)
    clear = image.merge("LA", (image.new("L", dark.size, 0), dark))
    clear.save(tmp_path / "a.png")
    assert [row.raw for row in opened(tmp_path / "a.png").rows] == ["INVOICE"]


def test_sixteen_bit_grey_is_not_all_white(word: Any, tmp_path: Path) -> None:
    word("INVOICE").convert("L").convert("I").point(lambda v: v * 257).convert("I;16").save(tmp_path / "a.tif")
    assert [row.raw for row in opened(tmp_path / "a.tif").rows] == ["INVOICE"]


def test_unsure_lines_are_counted_and_a_page_of_them_has_a_reason(word: Any, tmp_path: Path) -> None:
    word("INVOICE").save(tmp_path / "a.png")
    file = opened(tmp_path / "a.png", ocr_min_confidence=1.0)
    (row,) = file.rows
    assert row.problem == ("read", "no text: all 1 lines are below data.documents.ocr_min_confidence")
    assert file.facts["unsure_lines"] == 1


def test_an_image_without_text_is_a_row_with_its_reason(word: Any, tmp_path: Path) -> None:
    word("").save(tmp_path / "a.png")
    assert [row.problem for row in opened(tmp_path / "a.png").rows] == [("read", "no text: nothing was recognised")]


@pytest.mark.parametrize("keep", [0, 40, 400])
def test_a_damaged_image_is_a_row_with_its_reason(keep: int, word: Any, tmp_path: Path) -> None:
    word("INVOICE").save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:keep])
    (row,) = opened(tmp_path / "a.png").rows
    assert row.problem is not None
    assert row.problem[1].startswith("damaged: the image cannot be decoded")
