from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import STYLES, tiny_tokenizer
from tuneloop.chat import Detokenizer, StopStrings, Vocabulary
from tuneloop.chat.stream import byte_of_character, token_bytes

pytest.importorskip("transformers")

TOKENIZERS = {style: tiny_tokenizer(style) for style in STYLES}


def streamed(tokenizer: Any, ids: list[int], sizes: list[int]) -> str:
    stream, out, at = Detokenizer(Vocabulary(tokenizer)), [], 0
    for size in [*sizes, len(ids)]:
        out.append(stream.feed(ids[at : at + size]))
        at += size
    return "".join([*out, stream.finish()])


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("style", STYLES)
@given(data=st.data())
def test_any_ids_in_any_pieces_give_the_tokenizers_own_text(style: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[style]  # type: ignore[index]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    sizes = data.draw(st.lists(st.integers(0, 5), max_size=20))
    assert streamed(tokenizer, ids, sizes) == decoded(tokenizer, ids)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_survives_token_by_token(text: str) -> None:
    ids = TOKENIZERS["chatml"](text, add_special_tokens=False)["input_ids"]
    assert streamed(TOKENIZERS["chatml"], ids, [1] * len(ids)) == text


def test_a_character_is_sent_only_when_it_is_whole() -> None:
    tokenizer = TOKENIZERS["chatml"]
    ids = tokenizer("🙂", add_special_tokens=False)["input_ids"]
    stream = Detokenizer(Vocabulary(tokenizer))
    assert [stream.feed([i]) for i in ids] == [""] * (len(ids) - 1) + ["🙂"]


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    tokenizer = TOKENIZERS["chatml"]
    stream = Detokenizer(Vocabulary(tokenizer))
    first = tokenizer("🙂", add_special_tokens=False)["input_ids"][:-1]
    assert (stream.feed(first), stream.finish()) == ("", "\ufffd")


def test_special_tokens_are_silent_and_think_is_not() -> None:
    tokenizer = TOKENIZERS["r1-distill"]
    ids = tokenizer("<think>a</think><｜end▁of▁sentence｜>", add_special_tokens=False)["input_ids"]
    assert streamed(tokenizer, ids, []) == "<think>a</think>"


def test_the_alphabet_covers_every_byte_once() -> None:
    assert sorted(byte_of_character().values()) == list(range(256))
    assert token_bytes("Ġa") == b" a"
    assert token_bytes("<｜User｜>") == "<｜User｜>".encode()


def byte_fallback_tokenizer() -> Any:
    """SentencePiece-like, as Llama 2: no ByteLevel decoder, unknown characters as bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "▁the", "中"]
    model = models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    backend = Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


FALLBACK = byte_fallback_tokenizer()


@given(
    ids=st.lists(st.one_of(st.integers(0, len(FALLBACK) - 1), st.integers(258, len(FALLBACK) - 1)), max_size=25),
    sizes=st.lists(st.integers(0, 4), max_size=15),
)
def test_byte_fallback_tokenizers_too(ids: list[int], sizes: list[int]) -> None:
    assert streamed(FALLBACK, ids, sizes) == decoded(FALLBACK, ids)


def test_byte_fallback_streams_words_as_they_come() -> None:
    stream = Detokenizer(Vocabulary(FALLBACK))
    the, a = FALLBACK.convert_tokens_to_ids(["▁the", "a"])
    assert (stream.feed([the]), stream.feed([a]), stream.finish()) == ("the", "a", "")


ab = st.text("ab", max_size=12)


@given(pieces=st.lists(ab, max_size=8), stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_at_the_first_one_however_the_text_arrives(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    starts = [at for s in stops if (at := text.find(s)) >= 0]
    matcher = StopStrings(stops)
    sent = "".join([*(matcher.feed(p) for p in pieces), matcher.finish()])
    assert sent == (text[: min(starts)] if starts else text)
    assert (matcher.stopped is not None) == bool(starts)


def test_a_possible_beginning_of_a_stop_string_waits() -> None:
    matcher = StopStrings(["\nUser:"])
    assert [matcher.feed("Hello\nUs"), matcher.feed("ual"), matcher.feed("\nUser: hi")] == ["Hello", "\nUsual", ""]
    assert matcher.stopped == "\nUser:"
    assert matcher.feed("more") == matcher.finish() == ""
