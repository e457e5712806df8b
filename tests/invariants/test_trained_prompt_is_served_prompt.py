"""Promise 2: what stands before a trained answer is, token for token, what the gateway sends to the engine.

The training side uses the tokenizer in memory; the serving side one that went to disk and came back.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import STYLES, Style, tiny_tokenizer
from tuneloop.chat import Chat
from tuneloop.chat.reasoning import answer_text
from tuneloop.models import load_tokenizer
from tuneloop.types import Example, Message, Record

pytest.importorskip("transformers")

TRAINED = {style: Chat(tiny_tokenizer(style)) for style in STYLES}
ONE_BOS = ("llama3", "r1-distill")

everyday = st.sampled_from(
    [
        "I lost my card!",
        "我的银行卡丢了，怎么办？",
        " padded ",
        "line\n\nline",
        "\n",
        "12345",
        "don't",
        "🙂 ok",
        "<think>",
        "a</think>b",
    ]
)
hostile = st.sampled_from(
    [word for chat in TRAINED.values() for word in map(str, chat.tokenizer.added_tokens_decoder.values())]
)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
content = st.lists(everyday | hostile | anything, min_size=1, max_size=3).map("".join).filter(str.strip)
answer = st.builds(Message, st.just("assistant"), content, st.none() | content)


@st.composite
def records(draw: st.DrawFn) -> Record:
    messages = [Message("system", draw(content))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(content)), draw(answer)]
    return Record("r", tuple(messages))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chat]:
    out = {}
    for style in STYLES:
        folder = tmp_path_factory.mktemp(style)
        TRAINED[style].tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").touch()
        out[style] = Chat(load_tokenizer(Path(folder)))
    return out


def answers(rows: list[Example]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(everything before an answer, the answer) for each run of label tokens."""
    found = []
    for row in rows:
        at = 0
        for label, run in groupby(row.loss_mask):
            size = len(list(run))
            if label:
                found.append((row.input_ids[:at], row.input_ids[at : at + size]))
            at += size
    return found


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(record=records())
def test_before_every_answer_stands_the_served_prompt(style: Style, served: dict[str, Chat], record: Record) -> None:
    trained, chat = TRAINED[style], served[style]
    asked = [i for i, m in enumerate(record.messages) if m.role == "assistant"]
    found = answers(trained.examples(record))
    assert len(found) == len(asked)
    for i, (before, target) in zip(asked, found, strict=True):
        history = record.messages[:i]
        assert before == chat.prompt_ids(history)
        prompt = chat.render(history, generation=True)
        assert target[-len(chat.end_ids) :] == chat.end_ids
        assert set(target[: -len(chat.end_ids)]).isdisjoint(chat.stop_ids)
        assert chat.decode(target) == answer_text(record.messages[i], prompt)
        if style in ONE_BOS:
            assert before.index(chat.tokenizer.bos_token_id) == 0
            assert (before + target).count(chat.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("style", STYLES)
def test_a_served_answer_reads_back_as_the_record_had_it(style: Style, served: dict[str, Chat]) -> None:
    chat = served[style]
    history = [Message("system", "你是银行助理。"), Message("user", "card lost, 怎么办?")]
    prompt = chat.render(history, generation=True)
    for message in (Message("assistant", "挂失 card"), Message("assistant", "挂失 card", "先想一想\nthen answer")):
        text = chat.decode(TRAINED[style].answer_ids(message, prompt))
        assert chat.split_reasoning(text, prompt) == (message.reasoning, message.content)


@pytest.mark.parametrize("style", STYLES)
def test_template_and_stop_tokens_survive_the_disk(style: Style, served: dict[str, Chat]) -> None:
    assert served[style].template_hash == TRAINED[style].template_hash
    assert served[style].stop_ids == TRAINED[style].stop_ids
