"""Recordings -> text by a local Whisper model (faster-whisper), a row a segment with its times."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tuneloop.data.documents import speech_folder
from tuneloop.data.readers import ReadOptions
from tuneloop.data.rows import READ, RawFile, RawRow
from tuneloop.errors import ConfigError, need

RATE_HZ = 16_000
PIECE_S, SEARCH_S, QUIET_S = 600, 30, 0.1
"""A long recording is heard in pieces of ten minutes, cut at the quietest tenth of a second of the last thirty seconds:
memory stays bounded, and no word is divided."""
MIN_LOGPROB, MAX_COMPRESSION = -1.0, 2.4
"""Beyond these a segment is a failed decoding (Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak
Supervision, section 4.5: average log probability of the tokens, gzip compression ratio of the text)."""


def read(path: Path, name: str, options: ReadOptions) -> RawFile:
    """Begin to hear a recording; a segment that is not understood becomes a row with its reason.

    Raises:
        MissingExtraError: The speech extra is not installed.
        ConfigError: No usable model is named.
    """
    model = load_model(speech_folder(options.documents, name))
    language = options.documents.speech_language
    if language not in (None, "en") and not model.model.is_multilingual:
        raise ConfigError(
            f"the speech model knows English only, and data.documents.speech_language is {language!r}",
            where=name,
            hint="data.documents.speech_model: FOLDER of a multilingual Whisper model",
        )
    facts: dict[str, Any] = {"encoding": "audio", "seconds": 0.0, "language": ""}
    segments = _segments(model, path, options, facts)
    return RawFile.start(name, _whole(segments) if options.documents.speech == "file" else segments, None, facts)


@cache
def load_model(folder: Path) -> Any:
    """A Whisper model in CTranslate2 format, one a process: float16 on a GPU where there is one, else int8 on the CPU."""
    device, compute_type = (
        ("cuda", "float16") if need("ctranslate2", "speech").get_cuda_device_count() else ("cpu", "int8")
    )
    whisper = need("faster_whisper", "speech").WhisperModel
    return whisper(str(folder), device=device, compute_type=compute_type, local_files_only=True)


def _whole(segments: Iterator[RawRow]) -> Iterator[RawRow]:
    """What was understood as one row; the other segments stay rows with their reasons."""
    heard: list[RawRow] = []
    for row in segments:
        if row.problem:
            yield row
        else:
            heard.append(row)
    if heard:
        text = " ".join(row.raw for row in heard)
        place = f"{heard[0].place.partition('-')[0]}-{heard[-1].place.partition('-')[2]}"
        fields = {"text": text, "start_s": heard[0].fields["start_s"], "end_s": heard[-1].fields["end_s"]}
        yield RawRow(heard[0].line, text, fields, place=f"all {place}")


def _segments(model: Any, path: Path, options: ReadOptions, facts: dict[str, Any]) -> Iterator[RawRow]:
    av = need("av", "speech")
    number, language = 0, options.documents.speech_language
    try:
        for start_s, samples in pieces(path):
            # Sampling at higher temperatures would make the text depend on chance.
            heard, info = model.transcribe(
                samples, language=language, temperature=0.0, condition_on_previous_text=False, vad_filter=False
            )
            language = info.language  # the beginning decides for the whole recording
            facts.update(language=language, seconds=round(start_s + len(samples) / RATE_HZ, 3))
            for segment in heard:
                number += 1
                yield _row(number, segment, start_s, language)
    except av.error.FFmpegError as error:
        number += 1
        reason = f"damaged: the recording cannot be decoded from {clock(facts['seconds'])} on ({error.strerror})"
        yield RawRow(number, "", problem=(READ, reason), place=f"{clock(facts['seconds'])}-")
    except IndexError:  # PyAV, for a file without any audio stream
        number += 1
        yield RawRow(number, "", problem=(READ, "damaged: the file holds no audio"), place="0:00-")
    if not number:
        end = clock(facts["seconds"])
        yield RawRow(1, "", problem=(READ, "no speech: the recording is silent or empty"), place=f"0:00-{end}")


def _row(number: int, segment: Any, start_s: float, language: str) -> RawRow:
    text = segment.text.strip()
    begin, end = start_s + segment.start, start_s + segment.end
    place = f"{clock(begin)}-{clock(end)}"
    if not text:
        return RawRow(number, "", problem=(READ, "no speech: the segment holds no words"), place=place)
    if segment.avg_logprob < MIN_LOGPROB:
        reason = f"unsure speech: average log probability {segment.avg_logprob:.2f} is below {MIN_LOGPROB}"
        return RawRow(number, text, problem=(READ, reason), place=place)
    if segment.compression_ratio > MAX_COMPRESSION:
        reason = f"unsure speech: it repeats itself (compression ratio {segment.compression_ratio:.1f})"
        return RawRow(number, text, problem=(READ, reason), place=place)
    fields = {
        "text": text, "start_s": round(begin, 2), "end_s": round(end, 2), "language": language,
        "speech_logprob": round(segment.avg_logprob, 4),
    }  # fmt: skip
    return RawRow(number, text, fields, place=place)


def clock(seconds: float) -> str:
    """``75.4`` -> ``1:15``; from an hour on ``1:01:15``."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def pieces(path: Path, piece_s: int = PIECE_S, search_s: int = SEARCH_S) -> Iterator[tuple[float, Any]]:
    """A recording in pieces: where each begins, in seconds, and its float32 samples (mono, 16 kHz, -1 to 1).

    Raises:
        av.error.FFmpegError: It cannot be decoded (pieces before the damage have been given).
    """
    numpy = need("numpy", "speech")
    held: list[Any] = []
    held_n, given = 0, 0
    try:
        for block in _decoded(path):
            held.append(block)
            held_n += len(block)
            if held_n >= piece_s * RATE_HZ:
                samples = numpy.concatenate(held)
                cut = _quietest(samples, search_s)
                yield given / RATE_HZ, samples[:cut]
                given, held, held_n = given + cut, [samples[cut:]], len(samples) - cut
    finally:
        rest = numpy.concatenate(held) if held_n else None
    if rest is not None:
        yield given / RATE_HZ, rest


def _decoded(path: Path) -> Iterator[Any]:
    """Blocks of float32 samples."""
    av, numpy = need("av", "speech"), need("numpy", "speech")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(path), metadata_errors="ignore") as container:
        for frame in _then_none(container.decode(audio=0)):
            for part in resampler.resample(frame):
                yield part.to_ndarray().reshape(-1).astype(numpy.float32) / 32768


def _then_none(frames: Iterator[Any]) -> Iterator[Any]:
    """The frames, then the signal that empties the resampler."""
    yield from frames
    yield None


def _quietest(samples: Any, search_s: int) -> int:
    """Index of the middle of the quietest stretch near the end."""
    numpy = need("numpy", "speech")
    size = int(QUIET_S * RATE_HZ)
    first = max(0, len(samples) - search_s * RATE_HZ)
    count = (len(samples) - first) // size
    energy = numpy.square(samples[first : first + count * size].reshape(count, size)).sum(axis=1)
    return int(first + energy.argmin() * size + size // 2)
