"""Round trips, and which of them are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.unit.data.makers.conftest import Make, rows, said, with_entities
from tuneloop.data.makers.back_translation import PROMPT
from tuneloop.errors import ConfigError

TEXT = "I ordered a card 3 weeks ago and it has not arrived in Hamburg yet"
GOOD = "3 weeks ago I ordered a card, it has still not arrived in Hamburg"


class Translator:
    """Answers the way back with what it was told to, and keeps what it was asked."""

    def __init__(self, back: str, there: str = "THERE") -> None:
        self.back, self.there, self.asked = back, there, list[str]()

    def __call__(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        texts = [conversation[-1]["content"] for conversation in conversations]
        self.asked += texts
        return [self.back if text.endswith(self.there) else self.there for text in texts]


def test_a_row_goes_there_and_back(make: Make) -> None:
    ask = Translator(GOOD, "三周前")
    assert said(make("back_translation", {"rate": 1.0}, rows([TEXT]), ask=ask)) == [GOOD]
    languages = [("English", "Chinese", TEXT), ("Chinese", "English", "三周前")]
    assert ask.asked == [PROMPT.format(source=s, target=t, text=x).replace("{source}", s) for s, t, x in languages]


def test_chinese_goes_by_way_of_english(make: Make) -> None:
    ask = Translator("银行卡丢了要怎么处理", "my card is lost")
    make("back_translation", {"rate": 1.0}, rows(["我的银行卡丢失了怎么处理"]), ask=ask)
    assert "from Chinese into English" in ask.asked[0]
    assert "from English into Chinese" in ask.asked[1]


@pytest.mark.parametrize(
    ("back", "why"),
    [
        ("", "refused_empty"),
        ("  ", "refused_empty"),
        (TEXT.upper() + "!", "refused_copy"),
        ("some weeks ago I ordered a card, it has still not arrived in Hamburg", "refused_lost_a_value"),
        ("3 weeks ago I ordered a card, it has still not arrived in Berlin", "refused_lost_a_value"),
        ("3 zebras swim quickly, Hamburg", "refused_too_different"),
    ],
)
def test_bad_round_trips_are_refused_and_counted(make: Make, counts: dict[str, Any], back: str, why: str) -> None:
    frame = rows([TEXT], fields=[with_entities({"city": "Hamburg"})])
    new = make("back_translation", {"rate": 1.0}, frame, ask=Translator(back))
    assert (new.height, counts["made"], counts[why]) == (0, 0, 1)


def test_offsets_of_entities_go_and_their_values_stay(make: Make) -> None:
    at = TEXT.index("Hamburg")
    frame = rows([TEXT], fields=[with_entities([{"type": "city", "value": "Hamburg", "start": at, "end": at + 7}])])
    new = make("back_translation", {"rate": 1.0}, frame, ask=Translator(GOOD))
    assert json.loads(new["fields"][0]) == {"entities": [{"type": "city", "value": "Hamburg"}]}


def test_a_second_run_asks_nothing(make: Make, counts: dict[str, Any]) -> None:
    first = make("back_translation", {"rate": 1.0}, rows([TEXT]), ask=Translator(GOOD))

    def silent(conversations: Sequence[Any]) -> list[str]:
        raise AssertionError("everything stands in the cache")

    again = make("back_translation", {"rate": 1.0}, rows([TEXT]), ask=silent)
    assert first.equals(again, null_equal=True)
    assert (counts["requests"], counts["cached"]) == (2, 2)


def test_without_a_model_it_says_so_before_anything_is_made(make: Make) -> None:
    with pytest.raises(ConfigError, match="needs a model to ask"):
        make("back_translation", {}, rows([TEXT]))
