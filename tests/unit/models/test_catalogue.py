from __future__ import annotations

import pytest

from tuneloop.errors import ModelError
from tuneloop.models import CATALOGUE, find, looks_local
from tuneloop.models.catalogue import TUTORIAL_NAMES


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("deepseek-ai/DeepSeek-R1-8b", "deepseek-r1-distill-llama-8b"),
        ("deepseek-r1-7b", "deepseek-r1-distill-qwen-7b"),
        ("deepseek-ai/deepseek-7b-r1", "deepseek-r1-distill-qwen-7b"),
        ("deepseek-microtune", "deepseek-r1-distill-qwen-1.5b"),
        ("deepseek-ai/deepseek-microtune", "deepseek-r1-distill-qwen-1.5b"),
        ("DeepSeek-R1-Distill-Qwen-8B", "deepseek-r1-distill-llama-8b"),
    ],
)
def test_a_name_from_a_tutorial_is_explained_and_the_real_one_named(typed: str, meant: str) -> None:
    with pytest.raises(ModelError, match="does not exist: ") as caught:
        find(typed)
    assert caught.value.hint == f"use model.name={meant}  ({CATALOGUE[meant].hub})"
    assert len(str(caught.value).splitlines()) == 2


def test_every_tutorial_name_leads_to_a_model_and_hides_none() -> None:
    real = {name for e in CATALOGUE.values() for name in (e.name, e.hub.lower(), *e.aliases)}
    assert {meant for _, meant in TUTORIAL_NAMES.values()} <= set(CATALOGUE)
    assert real.isdisjoint(TUTORIAL_NAMES)


def test_alias_hub_name_and_case_find_the_same_entry() -> None:
    entry = CATALOGUE["deepseek-r1-distill-qwen-1.5b"]
    names = (entry.name, entry.hub, entry.hub.upper(), "deepseek-r1:1.5b", f" {entry.hub}/")
    assert {find(name) for name in names} == {entry}
    assert entry.hub == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


def test_no_name_means_two_models() -> None:
    names = [n for e in CATALOGUE.values() for n in (e.name, e.hub.lower(), *e.aliases)]
    assert len(names) == len(set(names))


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match="'smollm2-135-instruct' is unknown") as caught:
        find("smollm2-135-instruct")
    assert caught.value.hint == "did you mean smollm2-135m-instruct?"


def test_a_word_without_a_neighbour_gets_the_ways_to_name_a_model() -> None:
    with pytest.raises(ModelError) as caught:
        find("zzz")
    assert "owner/name of a hub" in (caught.value.hint or "")


def test_any_other_hub_name_is_left_to_the_hub() -> None:
    assert find("Qwen/Qwen2.5-0.5B-Instruct") is None


@pytest.mark.parametrize(("name", "local"), [("./a", True), ("/a", True), ("~/a", True), ("a/b", False), ("a", False)])
def test_a_path_is_told_by_how_it_begins(name: str, local: bool) -> None:
    assert looks_local(name) is local


def test_the_family_is_complete() -> None:
    sizes = {"qwen-1.5b", "qwen-7b", "qwen-14b", "qwen-32b", "llama-8b", "llama-70b"}
    assert {f"deepseek-r1-distill-{s}" for s in sizes} <= set(CATALOGUE)
    assert {
        "deepseek-v2-lite-chat",
        "deepseek-v2",
        "deepseek-v3",
        "deepseek-v3.2",
        "deepseek-r1",
        "deepseek-v4-flash",
        "deepseek-v4-pro",
    } <= set(CATALOGUE)


def test_the_llama_distills_carry_metas_licence_too() -> None:
    assert CATALOGUE["deepseek-r1-distill-llama-8b"].licence == "mit and llama3.1"
    assert CATALOGUE["deepseek-r1-distill-llama-70b"].licence == "mit and llama3.3"
