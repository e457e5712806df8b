"""The last stage of an answer, where something goes wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.pieces import output, say
from tuneloop.data.personal import Scanner
from tuneloop.serve.api_error import ApiError
from tuneloop.serve.filters.config import FiltersConfig, PersonalDataConfig


def test_nothing_is_looked_for_unless_asked() -> None:
    assert output() is None


def test_a_filter_that_fails_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Scanner, text: str, final: bool = False) -> None:
        raise ValueError(text)

    monkeypatch.setattr(Scanner, "feed", broken)
    guard = output(personal_data={"output": "flag"})
    assert guard is not None
    with pytest.raises(ApiError) as caught:
        guard.feed([("content", "13800138000")])
    assert (caught.value.status_code, caught.value.code) == (500, "filter_error")
    assert (guard.feed([("content", "more")]), guard.finish()) == ([], [])


def test_reasoning_after_the_answer_is_refused_since_it_could_complete_what_was_shown() -> None:
    guard = output(personal_data={"output": "mask"})
    assert guard is not None
    guard.feed([("reasoning", "138001"), ("content", "x")])
    with pytest.raises(ApiError, match="a filter failed"):
        guard.feed([("reasoning", "38000")])


def test_only_the_chosen_types_are_masked() -> None:
    guard = output(personal_data={"output": "mask", "types": ("EMAIL",)})
    said = say([b"13800138000 or a.b@c.example"], guard, reasoning=False)
    assert said.of("content") == "13800138000 or [EMAIL]"


def test_a_secret_longer_than_the_window_is_masked_to_its_end() -> None:
    text = "key sk-" + "a1" * 800 + " end"
    for tokens in ([text.encode()], [text[i : i + 7].encode() for i in range(0, len(text), 7)]):
        said = say(tokens, output(personal_data={"output": "mask"}), reasoning=False, logprobs=True)
        assert said.of("content") == "key [SECRET] end"


def test_an_unchosen_secret_that_goes_on_stays_as_it_is() -> None:
    text = "sk-" + "a1" * 400 + " a.b@c.example"
    guard = output(personal_data={"output": "mask", "types": ("EMAIL",)})
    assert say([text.encode()], guard, reasoning=False).of("content") == text.replace("a.b@c.example", "[EMAIL]")


def test_an_unknown_type_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValidationError, match=r"no such type: NAME\n.*EMAIL"):
        PersonalDataConfig(types=("NAME",))


def test_injection_cannot_be_masked() -> None:
    with pytest.raises(ValidationError):
        FiltersConfig.model_validate({"prompt_injection": {"input": "mask"}})
