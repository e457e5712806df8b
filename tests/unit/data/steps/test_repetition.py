from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from tests.unit.data.steps.rows import GOOD_SETS, dropped, pairs, real, reasons
from tuneloop.data.steps.repetition import Words, duplicate_pieces

PROSE = (
    "The bank froze my card after a payment in a small shop abroad, and the app only said that something went wrong. "
    "I called twice, waited for an hour, and finally a kind person explained that every first payment in a new country "
    "has to be confirmed once. Now everything works again, but a short message would have saved us all an afternoon."
)


def plain_top(words: list[str], n: int) -> float:
    """The slow way: share of characters in the most frequent n-gram (the longest one of equally frequent ones)."""
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    often = [(count, count * sum(map(len, gram))) for gram, count in grams.items() if count > 1]
    return min(max(often)[1] / sum(map(len, words)), 1.0) if often else 0.0


def plain_duplicated(words: list[str], n: int) -> float:
    """The slow way: share of characters in n-grams that were there before."""
    seen, inside = set(), set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            inside.update(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in inside) / sum(map(len, words))


TEXTS = ["a b a b a b c", "to be or not to be that is to be", "one two three", "x", "ab cd ef ab cd ef ab cd ef gh"]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_phrases_are_counted_as_the_slow_way_counts_them(n: int) -> None:
    words = Words(pl.Series(TEXTS))
    assert words.top(n).tolist() == pytest.approx([plain_top(t.split(), n) for t in TEXTS])
    assert words.duplicated(n).tolist() == pytest.approx([plain_duplicated(t.split(), n) for t in TEXTS])


@pytest.mark.parametrize("n", [2, 5])
def test_the_quick_bound_is_never_below_the_share(n: int) -> None:
    texts = pl.Series([text.strip() for text in [*TEXTS, PROSE, PROSE + PROSE, "哈" * 40]])
    words = Words(texts)
    assert (words.top_at_most(n) >= words.top(n)).all()
    assert (words.duplicated_at_most(n) >= words.duplicated(n)).all()


def test_copies_of_lines_are_counted_by_number_and_by_characters() -> None:
    # five lines, one of them a copy; 1 + 1 + 2 + 4 + 1 characters, 1 of them copied; brackets are no line
    share, characters = duplicate_pieces(pl.Series(["a\nb\ncc\n}\n}\ndddd\na"]), "\n")
    assert share.tolist() == [1 / 5]
    assert characters.tolist() == [1 / 9]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (PROSE + "\n" + "please help me now " * 40, "phrase"),
        ("\n".join([PROSE] * 5), "lines"),
        ("\n\n".join([PROSE] * 5), "paragraphs"),
        ("对不起，我不知道该怎么办。" * 20, "phrase"),
    ],
)
def test_a_loop_is_dropped(text: str, what: str) -> None:
    (reason,) = reasons("repetition", pairs([text]))
    assert reason is not None
    assert reason.startswith("repetition: ")
    assert what in reason or "lines" in reason


def test_prose_is_kept() -> None:
    assert reasons("repetition", pairs([PROSE]), tolerance=1.0) == [None]


def test_short_answers_are_not_judged() -> None:
    assert reasons("repetition", pairs(["very very very very good"])) == [None]


def test_a_repeating_system_prompt_is_not_the_rows_fault() -> None:
    frame = pairs(["Yes."], prompt="no " * 100)
    assert reasons("repetition", frame)[0] is not None
    system = frame.with_columns(
        messages=pl.col("messages").list.eval(
            pl.when(pl.element().struct.field("role") == "user")
            .then(pl.element().struct.with_fields(role=pl.lit("system")))
            .otherwise(pl.element())
        )
    )
    assert reasons("repetition", system) == [None]


@pytest.mark.parametrize("path", GOOD_SETS.values(), ids=GOOD_SETS)
def test_good_sets_lose_at_most_one_percent(path: str) -> None:
    assert dropped("repetition", real(path)) <= 0.01
