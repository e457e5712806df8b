"""What documents need is said before any work starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tuneloop.config import build
from tuneloop.data import DataConfig
from tuneloop.data.documents import _NEEDS, AUDIO_SUFFIXES, IMAGE_SUFFIXES, SPEECH_FILES, DocumentConfig, check
from tuneloop.data.readers import BY_SUFFIX
from tuneloop.data.sources import files
from tuneloop.errors import ConfigError, MissingExtraError


def speech_model(folder: Path) -> Path:
    """A folder with the names of a model; nothing opens it here."""
    folder.mkdir()
    for name in (*SPEECH_FILES, "vocabulary.txt"):
        (folder / name).touch()
    return folder


def test_every_document_reader_says_what_it_needs() -> None:
    documents = {suffix for suffix, reader in BY_SUFFIX.items() if reader.split(":")[0].rsplit(".", 1)[-1] in
                 ("html", "pdf", "docx", "scan", "audio", "dicom")}  # fmt: skip
    assert documents == set(_NEEDS)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("a.html", "trafilatura", "documents"),
        ("a.html.gz", "trafilatura", "documents"),
        ("a.PDF", "pypdfium2", "documents"),
        ("a.docx", "docx", "documents"),
        ("a.png", "rapidocr", "ocr"),
        ("a.mp3", "faster_whisper", "speech"),
        ("a.dcm", "pydicom", "dicom"),
    ],
)
def test_a_missing_extra_is_named_before_the_run(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as error:
        check(DocumentConfig(), [Path("rows.csv"), Path(name)])
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{name}: ")
    assert module in first
    assert second == f"hint: pip install 'tuneloop[{extra}]'"


def test_a_recording_without_a_model_is_refused_before_the_run(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="needs the speech extra", exc_type=ImportError)
    (tmp_path / "call.wav").touch()
    with pytest.raises(ConfigError) as error:
        files(DataConfig(sources=tmp_path / "call.wav"))
    assert str(error.value).splitlines() == [
        f"{tmp_path}/call.wav: a recording needs a speech model",
        "hint: data.documents.speech_model: FOLDER of a Whisper model in CTranslate2 format",
    ]


def test_a_model_folder_that_would_need_the_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="needs the speech extra", exc_type=ImportError)
    folder = speech_model(tmp_path / "model")
    check(DocumentConfig(speech_model=folder), [Path("call.wav")])
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json missing"):
        check(DocumentConfig(speech_model=folder), [Path("call.wav")])


def test_the_model_path_is_relative_to_the_yaml_file(tmp_path: Path) -> None:
    loaded = build(DocumentConfig, {"whisper_model": "models/whisper"}, path=tmp_path / "tuneloop.yaml")
    assert loaded.value.speech_model == tmp_path / "models" / "whisper"


@pytest.mark.parametrize(("key", "value"), [("ocr_resolution_dpi", 20), ("ocr_min_confidence", 1.5), ("pdf", "lines")])
def test_impossible_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        build(DocumentConfig, {key: value})


def test_suffixes_of_one_kind_share_a_reader() -> None:
    assert len({BY_SUFFIX[suffix] for suffix in IMAGE_SUFFIXES}) == 1
    assert len({BY_SUFFIX[suffix] for suffix in AUDIO_SUFFIXES}) == 1
