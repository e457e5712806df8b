"""Recordings: pieces without any model; rows with a model that answers what the test says."""

from __future__ import annotations

import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="needs the speech extra", exc_type=ImportError)

from tuneloop.data.documents import SPEECH_FILES, DocumentConfig
from tuneloop.data.readers import ReadOptions, audio
from tuneloop.data.rows import RawFile
from tuneloop.errors import ConfigError


def write(path: Path, samples: Any, rate_hz: int = audio.RATE_HZ, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())
    return path


def noise(seconds: float) -> Any:
    return np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * audio.RATE_HZ))


def segment(start: float, end: float, text: str, logprob: float = -0.2, compression: float = 1.2) -> Any:
    return SimpleNamespace(start=start, end=end, text=text, avg_logprob=logprob, compression_ratio=compression)


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``heard(segments, ...)`` reads a second of noise with a model that hears these segments."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (*SPEECH_FILES, "vocabulary.txt"):
        (folder / name).touch()

    def run(segments: list[Any], path: Path | None = None, multilingual: bool = True, **settings: Any) -> RawFile:
        info = SimpleNamespace(language="en")
        model = SimpleNamespace(
            transcribe=lambda *_, **__: (iter(segments), info), model=SimpleNamespace(is_multilingual=multilingual)
        )
        monkeypatch.setattr(audio, "load_model", lambda _: model)
        path = path or write(tmp_path / "a.wav", noise(1))
        return audio.read(path, "a.wav", ReadOptions(documents=DocumentConfig(speech_model=folder, **settings)))

    return run


def test_a_segment_is_a_row_with_its_times(heard: Any) -> None:
    found = list(heard([segment(0, 29.6, " Hello."), segment(61.2, 75.4, " Bye.")]).rows)
    assert [(row.origin("a.wav"), row.raw) for row in found] == [
        ("a.wav:0:00-0:29", "Hello."), ("a.wav:1:01-1:15", "Bye."),
    ]  # fmt: skip
    assert found[1].fields["start_s"] == 61.2


def test_the_whole_recording_as_one_row(heard: Any) -> None:
    (row,) = heard([segment(0, 2, " Hello."), segment(2, 4, " Bye.")], speech="file").rows
    assert (row.place, row.raw, row.fields["end_s"]) == ("all 0:00-0:04", "Hello. Bye.", 4)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (segment(0, 1, " mumble", logprob=-1.4), "unsure speech: average log probability -1.40 is below -1.0"),
        (segment(0, 1, " la la la", compression=3.1), "unsure speech: it repeats itself (compression ratio 3.1)"),
        (segment(0, 1, " "), "no speech: the segment holds no words"),
    ],
)
def test_a_segment_that_was_not_understood_is_a_row_with_its_reason(odd: Any, reason: str, heard: Any) -> None:
    assert [row.problem for row in heard([odd]).rows] == [("read", reason)]


def test_silence_is_a_row_with_its_reason(heard: Any) -> None:
    assert [row.problem for row in heard([]).rows] == [("read", "no speech: the recording is silent or empty")]


@pytest.mark.parametrize("data", [b"", b"RIFF and then nothing", bytes(500)])
def test_a_file_that_is_no_recording_is_a_row_with_its_reason(data: bytes, heard: Any, tmp_path: Path) -> None:
    path = tmp_path / "b.wav"
    path.write_bytes(data)
    (row,) = heard([segment(0, 1, " never")], path).rows
    assert row.problem is not None
    assert row.problem[1].startswith("damaged: ")


def test_an_english_model_is_not_asked_for_another_language(heard: Any) -> None:
    with pytest.raises(ConfigError, match="English only"):
        heard([], multilingual=False, speech_language="zh")


def test_a_long_recording_is_cut_where_it_is_quiet(tmp_path: Path) -> None:
    samples = noise(10)
    samples[int(7.5 * audio.RATE_HZ) : int(7.8 * audio.RATE_HZ)] = 0
    (first, _), (second, _) = audio.pieces(write(tmp_path / "a.wav", samples), piece_s=8, search_s=2)
    assert first == 0
    assert 7.5 <= second <= 7.8


def test_pieces_together_are_the_recording(tmp_path: Path) -> None:
    samples = noise(5)
    found = list(audio.pieces(write(tmp_path / "a.wav", samples), piece_s=2, search_s=1))
    assert len(found) > 2
    np.testing.assert_allclose(np.concatenate([part for _, part in found]), samples, atol=1e-4)


def test_stereo_of_another_rate_becomes_mono_16_khz(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(2 * 44_100), rate_hz=44_100, channels=2)
    ((start_s, samples),) = audio.pieces(path)
    assert (start_s, samples.dtype) == (0.0, np.float32)
    assert len(samples) == pytest.approx(audio.RATE_HZ, abs=32)


def test_times() -> None:
    assert [audio.clock(s) for s in (0, 59.9, 75.4, 3675)] == ["0:00", "0:59", "1:15", "1:01:15"]
