"""One text through its checks: order, overlaps, blocks, marks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tuneloop.serve.filters.config import Action
from tuneloop.serve.filters.text import Check, FilteredText, Found, Hits, whole


class Word:
    """Finds one word, and knows it ``late`` characters after its end."""

    def __init__(self, word: str, tag: str, late: int = 0) -> None:
        self.name, self._word, self._tag, self._late = word, word, tag, late
        self._text, self.settled = "", 0

    def feed(self, text: str, final: bool = False) -> Sequence[Found]:
        self._text += text
        found, start = [], self.settled
        until = len(self._text) if final else max(start, len(self._text) - self._late - len(self._word) + 1)
        while start < until:
            at = self._text.find(self._word, start)
            if at < 0 or at >= until:
                break
            found.append(Found(at, at + len(self._word), self._tag))
            start = at + len(self._word)
        self.settled = max(self.settled, until, start)
        return found


def out(text: str, *checks: tuple[Word, Action], step: int = 0) -> tuple[str, bool, Hits]:
    pieces, hits, said = (
        [text[i : i + step] for i in range(0, len(text), step)] if step else [text],
        Hits(),
        list[str](),
    )
    through = FilteredText[None]([Check(*c) for c in checks], hits, said.append)
    for piece in pieces:
        through.feed(piece)
    through.feed("", final=True)
    return "".join(said), through.blocked, hits


@pytest.mark.parametrize("step", range(1, 9))
def test_two_finders_of_different_patience_give_the_same_in_any_pieces(step: int) -> None:
    text = "a cat and a dog, a catdog"
    checks = [(Word("cat", "<C>"), "mask"), (Word("dog", "<D>", late=4), "mask")]
    assert out(text, *checks, step=step)[0] == "a <C> and a <D>, a <C><D>"  # type: ignore[arg-type]


@pytest.mark.parametrize("step", range(1, 9))
def test_of_two_that_overlap_the_one_that_begins_first_is_shown(step: int) -> None:
    assert out("a catdog b", (Word("atdo", "<X>", 3), "mask"), (Word("cat", "<C>"), "mask"), step=step)[0] == "a <C>g b"


@pytest.mark.parametrize("step", range(1, 9))
def test_what_lies_within_masked_text_does_not_end_it(step: int) -> None:
    assert out("a catdog b", (Word("catdog", "<X>"), "mask"), (Word("atd", "<Y>"), "mask"), step=step)[0] == "a <X> b"


@pytest.mark.parametrize("step", range(1, 9))
def test_a_block_inside_masked_text_ends_the_text(step: int) -> None:
    said, blocked, _ = out("a catdog b", (Word("dog", "<D>", 2), "block"), (Word("catdo", "<C>"), "mask"), step=step)
    assert (said, blocked) == ("a <C>", True)


def test_what_is_flagged_passes_at_once_and_is_counted() -> None:
    hits, said = Hits(), list[str]()
    through = FilteredText[None]([Check(Word("dog", "<D>", late=50), "flag")], hits, said.append)
    through.feed("a dog")
    assert (said, hits) == (["a dog"], Hits())
    through.feed("", final=True)
    assert hits == {("dog", "flag"): 1}


def test_a_mark_waits_for_the_text_before_it() -> None:
    seen = list[str]()
    through = FilteredText[str](
        [Check(Word("dog", "<D>", 2), "mask")], Hits(), seen.append, on_mark=lambda m: seen.append(m) is None
    )
    through.feed("a do")
    through.mark("|")
    through.feed("g b")
    through.feed("", final=True)
    assert "".join(seen) == "a <D>| b"


def test_a_blocked_whole_text_is_none() -> None:
    assert whole("a dog", [Check(Word("dog", "<D>"), "block")], Hits()) is None
