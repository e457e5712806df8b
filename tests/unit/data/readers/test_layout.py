"""Reading order of boxes, with pages small enough to check by eye."""

from __future__ import annotations

from tuneloop.data.readers.layout import Box, blocks, paragraphs


def line(left: float, row: int, text: str, width: float = 100.0) -> Box:
    """A box 10 high in a row of 12."""
    return Box(left, 12.0 * row, left + width, 12.0 * row + 10, text)


def texts(found: list[list[Box]]) -> list[list[str]]:
    return [[box.text for box in block] for block in found]


def test_boxes_on_one_line_are_read_left_to_right_whatever_their_order() -> None:
    assert texts(blocks([line(110, 0, "world"), line(0, 1, "below"), line(0, 0, "hello")])) == [
        ["hello world", "below"]
    ]


def test_a_wide_gap_in_a_line_becomes_a_tab() -> None:
    assert texts(blocks([line(0, 0, "Total"), line(300, 0, "7.00", 30)])) == [["Total\t7.00"]]


def test_a_box_a_little_lower_stands_on_the_same_line() -> None:
    low = Box(110, 4, 150, 14, "low")
    assert texts(blocks([line(0, 0, "high"), low])) == [["high low"]]


def test_two_columns_are_read_one_after_the_other() -> None:
    left = [line(0, i, f"l{i}") for i in range(1, 6)]
    right = [line(120, i, f"r{i}") for i in range(1, 6)]
    title, foot = line(0, 0, "title", 220), line(0, 6, "foot", 220)
    assert texts(blocks([*right, *left, foot, title])) == [
        ["title"], ["l1", "l2", "l3", "l4", "l5"], ["r1", "r2", "r3", "r4", "r5"], ["foot"],
    ]  # fmt: skip


def test_prices_beside_articles_are_no_column() -> None:
    boxes = [box for i in range(8) for box in (line(0, i, f"article {i}", 150), line(200, i, f"{i}.00", 30))]
    assert texts(blocks(boxes)) == [[f"article {i}\t{i}.00" for i in range(8)]]


def test_a_full_line_runs_on_and_a_short_one_ends_the_paragraph() -> None:
    lines = [line(0, 0, "full", 300), line(0, 1, "short", 150), line(0, 2, "next", 300)]
    assert paragraphs(lines) == [["full", "short"], ["next"]]


def test_a_list_item_begins_a_paragraph() -> None:
    assert paragraphs([line(0, 0, "full", 300), line(0, 1, "• item", 300)]) == [["full"], ["• item"]]


def test_a_gap_ends_a_paragraph() -> None:
    assert paragraphs([line(0, 0, "full", 300), line(0, 2, "after the gap", 300)]) == [["full"], ["after the gap"]]


def test_rows_of_a_table_do_not_run_on() -> None:
    assert paragraphs([line(0, 0, "a\t1", 300), line(0, 1, "b\t2", 300)]) == [["a\t1"], ["b\t2"]]


def test_a_larger_line_is_another_paragraph() -> None:
    assert paragraphs([Box(0, 0, 400, 20, "Heading"), line(0, 2, "text", 400)]) == [["Heading"], ["text"]]
