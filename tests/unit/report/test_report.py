from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.report.conftest import CHINESE, FREE_TEXT, MakeRun, put
from tuneloop import report
from tuneloop.report.gather import STAGES, gather
from tuneloop.rundir import Run

VOID = {"meta", "br", "hr", "img", "path", "use", "rect", "circle", "line"}


class Page(HTMLParser):
    """Tags, attributes, text; complains when tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def shown(run: Run) -> tuple[str, Page]:
    path = report.write(run, "bank-support")
    assert path == run.root / "report.html"
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def english(run: Run) -> tuple[str, Page]:
    return shown(run)


def test_the_verdict_comes_first_in_plain_words(english: tuple[str, Page]) -> None:
    _, page = english
    start = page.text[: page.text.index("Quality on questions")]
    assert "The tuned model is better than the base model." in start
    counts = re.search(
        r"The tuned model answers (\d+) of 140 questions right \(([\d.]+) %\), the base model (\d+) of 140", start
    )
    assert counts
    assert float(counts[2]) == pytest.approx(100 * int(counts[1]) / 140, abs=0.05)
    assert re.search(
        r"Difference \+[\d.]+ points \[\+[\d.]+, \+[\d.]+\] \(95 % interval; exact McNemar, p < 0\.001\)", start
    )
    assert "The compressed model may replace the tuned model." in start


def test_what_was_learned_is_told_apart_from_mere_wording(english: tuple[str, Page]) -> None:
    _, page = english
    assert "Counting every answer that names the right class" in page.text


def test_it_opens_offline(english: tuple[str, Page]) -> None:
    html, page = english
    assert "script" not in page.tags
    links = [v for k, v in page.attributes if k in ("src", "href", "xlink:href", "action") and not v.startswith("#")]
    assert [v for v in links if v != "data/report.html"] == []
    assert not re.search(r"@import|url\((?!#)", html)


def test_text_of_customers_is_escaped(english: tuple[str, Page]) -> None:
    html, page = english
    assert "<script" not in html.lower()
    assert "of a customer <script>alert(" in page.text  # shown as the text it is


def test_the_same_run_gives_the_same_page(run: Run, english: tuple[str, Page]) -> None:
    assert shown(run)[0] == english[0]


def test_ids_are_unique_and_every_reference_is_met(english: tuple[str, Page]) -> None:
    html, _ = english
    ids = Counter(re.findall(r'\bid="([^"]+)"', html))
    assert max(ids.values()) == 1
    assert set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)


def test_warnings_of_the_training_are_shown_with_their_advice(english: tuple[str, Page]) -> None:
    assert "Step 40: validation rises <while> training falls. stop earlier" in english[1].text


def test_every_section_is_there(english: tuple[str, Page]) -> None:
    html, page = english
    for words in (
        "Quality on questions it has never seen", "The smaller model", "Examples", "Training", "Served over HTTP",
        "The rows: what came in", "What this does not show", "Where it comes from", "1,412 rows in = 1,231 kept + 181 dropped",
        "Parity holds", "near_duplicate", "Macro-F1", "24 of 24", "BLEU-4",
    ):  # fmt: skip
        assert words in page.text, words
    assert html.count("<svg ") == 4


def test_pictures_follow_the_theme_and_keep_their_text(english: tuple[str, Page]) -> None:
    html, _ = english
    svg = "".join(re.findall(r"<svg .*?</svg>", html, re.S))
    assert "var(--accent)" in svg
    assert not re.search(r"#0000(0[1-7])", svg)
    assert "lost_or_stolen_card" in "".join(re.findall(r"<text.*?</text>", svg, re.S))


def test_chinese_classes_are_drawn_as_text(make_run: MakeRun) -> None:
    html, _ = shown(make_run(CHINESE))
    drawn = "".join(re.findall(r"<text.*?</text>", html, re.S))
    assert all(label in drawn for label in ("内科", "外科", "妇产科"))


def test_free_text_is_judged_by_rouge(make_run: MakeRun) -> None:
    html, page = shown(make_run(FREE_TEXT))
    assert "ROUGE-L of the tuned model" in page.text
    assert "Accuracy was left out: 140 of 140 records have no label" in page.text
    assert html.count("<svg ") == 2  # no classes, no confusion


def test_many_classes_are_cut_to_the_hardest_and_it_is_said(make_run: MakeRun) -> None:
    labels = tuple(f"class_number_{i}" for i in range(77))
    html, page = shown(make_run(labels, n=154, tuned=0.6))
    assert "The 48 hardest of 77 classes" in page.text
    assert re.search(r"The 24 classes with the most confusion, of 77", page.text)
    assert all(f">{label}<" in html for label in labels)  # in the table of all classes


def test_a_model_that_is_no_better_does_not_pass(make_run: MakeRun) -> None:
    _, page = shown(make_run(base=0.5, tuned=0.5, sloppy=0.0))
    assert "The tuned model is better than the base model" not in page.text
    assert re.search(r"does not settle|does not reach", page.text)


@pytest.mark.parametrize(
    "kept", [(), ("data",), ("data", "train"), ("evaluate-tuned",), ("evaluate-base", "compare"), ("compress",)]
)
def test_stages_that_were_not_run_are_named(make_run: MakeRun, kept: tuple[str, ...]) -> None:
    run = make_run(only=kept)
    _, page = shown(run)
    missing = [s for s in STAGES if s not in kept]
    assert f"Not run, so nothing is said about it: {', '.join(missing)}." in page.text
    assert all(f"not run   {', '.join(missing)}" in line for line in report.summary(run) if line.startswith("not run"))
    assert ("not judged" in page.text) == ("compare" not in kept)


def test_a_ledger_that_does_not_add_up_is_called_out(make_run: MakeRun) -> None:
    run = make_run(only=("data",))
    counts = {"rows_in": 10, "kept": 8, "dropped": 1, "train": 8, "validation": 0, "test": 0}
    put(run.dir("data").path, "summary.json", {"counts": counts, "dropped": {"empty": 1}, "detected": "x"})
    assert "The counts do not add up" in shown(run)[1].text


def test_a_repeated_step_of_a_resumed_training_counts_once(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    lines = '{"step": 1, "loss": 9.0}\n{"step": 2, "loss": 8.0}\n{"step": 2, "loss": 7.0}\n{"step": 2, "validation_loss": 5}\n{"st'
    (tmp_path / "train" / "metrics.jsonl").write_text(lines)
    assert gather(Run(tmp_path)).curve == [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 7.0, "validation_loss": 5}]


def test_the_licence_of_the_base_model_is_read_from_its_folder(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    folder = tmp_path / "base"
    put(run.dir("evaluate-base").path, "evaluation.json",
        gather(run).stages["evaluate-base"] | {"subject": {"label": "base", "path": str(folder)}})  # type: ignore[operator]  # fmt: skip
    assert gather(run).licence is None
    folder.mkdir()
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    assert gather(run).licence == "apache-2.0"


def test_the_summary_is_a_dozen_lines_and_ends_with_what_to_type(run: Run, english: tuple[str, Page]) -> None:
    lines = report.summary(run)
    text = "\n".join(lines)
    assert 11 <= len(lines) <= 17
    assert (
        lines[0]
        == "rows      1,412 in = 1,231 kept + 181 dropped (near_duplicate 90, duplicate 61, empty 21, truncated 9)"
    )
    assert re.search(r"accuracy  base [\d.]+ % \[[\d.]+, [\d.]+\] → tuned [\d.]+ % \[[\d.]+, [\d.]+\], n = 140", text)
    assert "exact McNemar p < 0.001" in text
    assert "538 MB float32, 269 MB 16 bit → 145 MB q8_0" in text
    assert "parity    ok: same token ids" in text
    assert f"report    {run.root / 'report.html'}" in text
    assert [line.split("tuneloop ")[1].split()[0] for line in lines[-3:]] == ["chat", "serve", "trace"]


def test_every_id_that_the_summary_offers_exists(run: Run) -> None:
    offered, _, where = report.summary(run)[-1].split("tuneloop trace ")[1].partition(" --run ")
    assert offered in gather(run).prompts
    assert where == str(run.root)


def test_broken_parity_is_said_in_the_verdict(make_run: MakeRun) -> None:
    run = make_run()
    found = gather(run).stages["compress"]
    broken = {**found["parity"], "ok": False, "reason": "mean KL 0.2 > 0.01"}
    put(run.dir("compress").path, "compress.json", {**found, "parity": broken})
    _, page = shown(run)
    assert "Its parity with the trained model is broken (mean KL 0.2 > 0.01)" in page.text
    assert "Parity is broken; such a bundle is not served" in page.text
