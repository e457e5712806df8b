"""Long text in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.data.readers.cut import cut

TEXT = "intro\n\n# One\nfirst\n\n## Two ##\nsecond\nline\n"


def pieces(text: str, how: str) -> list[tuple[int, str, str]]:
    return [tuple(piece) for piece in cut(text.splitlines(), how)]  # type: ignore[arg-type, misc]


def test_sections_begin_at_headings_and_know_their_line() -> None:
    assert pieces(TEXT, "sections") == [
        (1, "", "intro"),
        (3, "One", "# One\nfirst"),
        (6, "Two", "## Two ##\nsecond\nline"),
    ]


def test_paragraphs_are_cut_at_blank_lines() -> None:
    assert [(line, text) for line, _, text in pieces("a\nb\n\n \n\nc\n", "paragraphs")] == [(1, "a\nb"), (6, "c")]


def test_lines_leave_blank_ones_out() -> None:
    assert [(line, text) for line, _, text in pieces("a\n\nb", "lines")] == [(1, "a"), (3, "b")]


def test_a_file_is_one_piece() -> None:
    assert pieces("\n# a\nb\n\nc\n", "file") == [(2, "", "# a\nb\n\nc")]


def test_a_comment_in_a_code_fence_is_no_heading() -> None:
    text = "# Install\n```sh\n# not a heading\n~~~\n```\n# Next\nx"
    assert [title for _, title, _ in pieces(text, "sections")] == ["Install", "Next"]


def test_a_heading_with_nothing_below_goes_with_the_next_section() -> None:
    assert pieces("# Part\n\n## Chapter\ntext", "sections") == [(1, "Chapter", "# Part\n\n## Chapter\ntext")]


@pytest.mark.parametrize("line", ["#hashtag", "####### seven", "    # code"])
def test_what_commonmark_does_not_call_a_heading_is_text(line: str) -> None:
    assert pieces(f"a\n{line}", "sections") == [(1, "", f"a\n{line}")]


@given(
    st.lists(st.sampled_from(["", " ", "text", "# h", "## h2", "```", "~~~~", "- item", "#"]), max_size=30),
    st.sampled_from(["lines", "paragraphs", "sections", "file"]),
)
def test_every_line_with_words_is_in_exactly_one_piece(lines: list[str], how: str) -> None:
    found = [line for piece in cut(lines, how) for line in piece.text.split("\n")]  # type: ignore[arg-type]
    assert [line.rstrip() for line in found if line.strip()] == [line.rstrip() for line in lines if line.strip()]
