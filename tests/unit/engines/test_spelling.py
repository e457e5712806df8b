from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuneloop.engines.spelling import Spelling

TOKENS = {
    0: b"a",
    1: b"b",
    2: b"ab",
    3: "北".encode()[:1],
    4: "北".encode()[1:2],
    5: "北".encode()[2:],
    6: "北".encode()[:2],
}


def test_a_character_is_found_with_exactly_as_many_tokens_as_were_counted() -> None:
    spelling = Spelling(TOKENS)
    assert spelling.spell("北".encode(), 3) == (3, 4, 5)
    assert spelling.spell("北".encode(), 2) == (6, 5)
    assert spelling.spell("北".encode(), 1) is None


@given(st.lists(st.sampled_from(sorted(TOKENS)), max_size=12))
def test_what_is_found_joins_to_the_same_text_with_the_same_count(ids: list[int]) -> None:
    text = b"".join(TOKENS[i] for i in ids)
    found = Spelling(TOKENS).spell(text, len(ids))
    assert found is not None
    assert b"".join(TOKENS[i] for i in found) == text
    assert len(found) == len(ids)


def test_what_no_token_writes_is_not_found() -> None:
    assert Spelling(TOKENS).spell(b"c", 1) is None
    assert Spelling(TOKENS).spell(b"", 0) == ()
    assert Spelling({}).spell(b"a", 1) is None
