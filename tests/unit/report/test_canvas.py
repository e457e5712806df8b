from __future__ import annotations

from tuneloop.report.canvas import draw, short, width_em


def test_a_chinese_character_is_as_wide_as_it_is_high() -> None:
    assert width_em("内科") == 2.0
    assert 1.0 < width_em("ab") < 1.4


def test_long_labels_are_cut_with_a_mark() -> None:
    assert short("short") == "short"
    cut = short("a very long label that does not fit into the margin", 10)
    assert cut.endswith("…")
    assert width_em(cut) <= 10
    assert short("  \n ") == "(empty)"


def test_a_caption_and_a_label_are_escaped() -> None:
    html = draw(1.0, lambda figure: figure.text(0.1, 0.5, "<b> $x$ & 内科"), alt='"<', caption="<i>")
    assert "&lt;b&gt; $x$ &amp; 内科" in html
    assert "<figcaption>&lt;i&gt;</figcaption>" in html
    assert 'aria-label="&quot;&lt;"' in html
