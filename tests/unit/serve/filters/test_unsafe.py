"""Unsafe sentences: listed words, insults, and sentences that come in pieces. The test texts are offensive on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pieces import cut, output, say
from tuneloop.data import offensive
from tuneloop.data.linear import load
from tuneloop.errors import ConfigError
from tuneloop.serve.filters.config import UnsafeConfig
from tuneloop.serve.filters.personal import HELD_AT_MOST_CHARACTERS
from tuneloop.serve.filters.text import Check, Hits, whole
from tuneloop.serve.filters.unsafe import LONGEST_SENTENCE_CHARACTERS, Unsafe

WORDS = UnsafeConfig(classifier=False)
INSULT = "You are a stupid ugly bitch"
PARTS = [INSULT, "Kill yourself", "how to make  a bomb", "傻逼", "怎么自 杀", "如何制作炸药", "Good morning.", "您好，", "。", "! ", ". ", "\n", " ", "a", "x" * 130, "字" * 150, "ｋｉｌｌ ｙｏｕｒｓｅｌｆ"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=10).map("".join)


def masked(text: str, config: UnsafeConfig = WORDS) -> str | None:
    return whole(text, [Check(Unsafe(config), "mask")], Hits())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Just kill yourself now.", "Just [UNSAFE] now."),
        ("KILL  YOURSELF", "[UNSAFE]"),
        ("overkill yourselfie", "overkill yourselfie"),
        ("ｆｕｃｋ ｏｆｆ please", "[UNSAFE] please"),
        ("你这个傻逼。", "你这个[UNSAFE]。"),
        ("怎么制造 炸*弹？", "怎么[UNSAFE]？"),
        ("Scunthorpe is a town. 她的婆婆很好。", "Scunthorpe is a town. 她的婆婆很好。"),
    ],
)
def test_listed_words(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_an_insult_takes_its_sentence_and_no_other() -> None:
    text = f"Hello there. {INSULT}! Your card is on its way."
    assert masked(text, UnsafeConfig(built_in_words=False)) == "Hello there. [UNSAFE] Your card is on its way."


def test_a_phrase_across_the_cut_of_an_endless_sentence_is_found() -> None:
    for before in range(LONGEST_SENTENCE_CHARACTERS + 20):
        text = "字" * before + "如何制作炸药" + "字" * 300
        assert masked(text) == "字" * before + "[UNSAFE]" + "字" * 300


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.lists(st.integers(0, 900), max_size=30), st.sampled_from(["mask", "block"]))
def test_a_stream_gives_what_the_whole_gives(text: str, cuts: list[int], action: str) -> None:
    config = {"unsafe": {"output": action}, "personal_data": {"output": "mask"}}
    streamed = say(cut(text, cuts), output(**config), reasoning=False)
    at_once = say([text.encode()], output(**config), reasoning=False)
    assert streamed.of("content") == at_once.of("content")
    assert streamed.answer.finish == at_once.answer.finish
    assert streamed.held <= max(LONGEST_SENTENCE_CHARACTERS, HELD_AT_MOST_CHARACTERS)


@pytest.mark.parametrize("text", ["x" * 1000, "字" * 1000, "word " * 200, "傻逼" * 300, "." * 900])
def test_no_more_than_the_longest_sentence_is_held_back(text: str) -> None:
    said = say(cut(text, range(3000)), output(unsafe={"output": "mask"}), reasoning=False)
    assert said.held < LONGEST_SENTENCE_CHARACTERS


def test_a_blocked_sentence_is_never_begun() -> None:
    text = f"Fine. {INSULT}. More."
    said = say(cut(text, range(60)), output(unsafe={"output": "block"}), reasoning=False, logprobs=True)
    assert (said.of("content"), said.answer.finish) == ("Fine. ", "content_filter")
    assert b"".join(entry.token for entry in said.logprobs) == b"Fine. "


def test_own_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("# ours\nAcme Corp\n竞品\n", encoding="utf-8")
    config = UnsafeConfig(classifier=False, built_in_words=False, words=(path,))
    assert masked("acme corp 和竞 品, kill yourself", config) == "[UNSAFE] 和[UNSAFE], kill yourself"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff", b"x" * 65, "字".encode() * 61])
def test_a_list_that_cannot_be_used_is_an_error_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.txt"):
        output(unsafe={"output": "flag", "words": (path,)})


@pytest.mark.parametrize("name", ["toxicity_zh", "toxicity_en"])
def test_one_text_is_judged_as_in_a_frame(name: str) -> None:
    texts = ["你好", "", "a", "Ｆｕｌｌ　width\n text", "你这个蠢货 去死", INSULT, "é" * 40, "😀"]
    model = load(name)
    assert np.allclose([model.probability(t) for t in texts], model.probabilities(pl.Series(texts)), atol=1e-9)


def test_a_model_judges_its_script_only() -> None:
    assert offensive("1234 !!!") == (0.0, 0.0)
    assert offensive("你好，请问几点开门").en == 0.0
    assert offensive("When do you open?").zh == 0.0
    assert offensive(INSULT).en > 0.9


def test_judging_needs_no_frames() -> None:
    code = (
        "import sys; from tuneloop.serve.filters.filters import Filters; from tuneloop.serve.filters.config import *;"
        "guard = Filters(FiltersConfig(unsafe={'output': 'mask'}, personal_data={'output': 'mask'}), print).output();"
        "guard.feed([('content', 'hello. 你好，朋友。')]); guard.finish();"
        "print([m for m in ('polars', 'sklearn', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
