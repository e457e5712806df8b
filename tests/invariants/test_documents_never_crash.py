"""Whatever happened to the bytes of a document: rows or rows with reasons, and no other exception."""

from __future__ import annotations

import io
import random
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneloop.data.documents import SPEECH_FILES, DocumentConfig
from tuneloop.data.readers import ReadOptions, audio, reader_of, scan
from tuneloop.data.readers.layout import Box

VARIANTS = 60


def web_page() -> bytes:
    pytest.importorskip("trafilatura", reason="needs the documents extra", exc_type=ImportError)
    return (
        "<html><title>T</title><body><article><p>" + "Words of a page. " * 30 + "</p></article></body></html>"
    ).encode()


def pdf() -> bytes:
    pdfium = pytest.importorskip("pypdfium2", reason="needs the documents extra", exc_type=ImportError)
    document = pdfium.PdfDocument.new()
    document.new_page(200, 200)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def word() -> bytes:
    docx = pytest.importorskip("docx", reason="needs the documents extra", exc_type=ImportError)
    document = docx.Document()
    document.add_heading("Heading", 1)
    document.add_paragraph("item", style="List Number")
    document.add_table(2, 2).cell(0, 0).text = "cell"
    packed, flat = io.BytesIO(), io.BytesIO()
    document.save(packed)
    # Stored, not deflated: damage reaches the XML instead of the archive alone.
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(flat, "w") as new:
        for name in old.namelist():
            if name.endswith((".xml", ".rels")):
                new.writestr(name, old.read(name))
    return flat.getvalue()


def picture() -> bytes:
    image = pytest.importorskip("PIL.Image", reason="needs the ocr extra", exc_type=ImportError)
    out = io.BytesIO()
    image.effect_noise((40, 30), 50).save(out, "TIFF", save_all=True, append_images=[image.new("1", (9, 9))])
    return out.getvalue()


def recording() -> bytes:
    pytest.importorskip("faster_whisper", reason="needs the speech extra", exc_type=ImportError)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    return out.getvalue()


def dicom() -> bytes:
    pydicom = pytest.importorskip("pydicom", reason="needs the dicom extra", exc_type=ImportError)
    pytest.importorskip("PIL", reason="needs the dicom extra", exc_type=ImportError)
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    made.Modality, made.PhotometricInterpretation, made.SliceThickness = "CT", "MONOCHROME2", 1.5
    made.WindowCenter, made.WindowWidth, made.RescaleSlope, made.RescaleIntercept = 4, 8, 1, 0
    made.Rows = made.Columns = 4
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 16, 16, 15, 0, 1
    made.PixelData = bytes(32)
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    ".html": web_page, ".pdf": pdf, ".docx": word, ".tif": picture, ".wav": recording, ".dcm": dicom,
}  # fmt: skip


def damaged(whole: bytes, chance: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(chance.choice((0, 1, 4, 20))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.4:
        begin = chance.randrange(len(data))
        del data[begin : begin + chance.choice((1, 10, len(data)))]
    return bytes(data)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadOptions:
    """Models are replaced: what is damaged here are files."""
    seen = scan.Recognised([[Box(0, 0, 9, 9, "word")]], 0.9, 0)
    monkeypatch.setattr(scan, "engine", lambda: None)
    monkeypatch.setattr(scan, "recognise", lambda *_: seen)
    said = SimpleNamespace(start=0.0, end=1.0, text="word", avg_logprob=-0.1, compression_ratio=1.0)
    model: Any = SimpleNamespace(model=SimpleNamespace(is_multilingual=True))
    model.transcribe = lambda *_, **__: (iter([said]), SimpleNamespace(language="en"))
    monkeypatch.setattr(audio, "load_model", lambda _: model)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (*SPEECH_FILES, "vocabulary.txt"):
        (folder / name).touch()
    return ReadOptions(documents=DocumentConfig(speech_model=folder), media_folder=tmp_path / "media")


@pytest.mark.parametrize("suffix", MAKERS)
def test_damaged_documents_give_rows_with_text_or_a_reason(suffix: str, options: ReadOptions, tmp_path: Path) -> None:
    whole, chance = MAKERS[suffix](), random.Random(suffix)
    for n in range(VARIANTS):
        path = tmp_path / f"{n}{suffix}"
        path.write_bytes(damaged(whole, chance) if n else whole)
        rows = list(reader_of(path)(path, path.name, options).rows)
        assert rows, n
        assert all(bool(row.problem) != bool(row.fields) for row in rows), n
        assert all(row.raw.strip() for row in rows if row.fields), n
        origins = [row.origin(path.name) for row in rows]
        assert len(set(origins)) == len(origins), n
