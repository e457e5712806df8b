"""Round trip of calls: what a chat template writes for a call, the gateway reads back, however the text is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import Style, tiny_tokenizer
from tests.tool_templates import TEMPLATES, tool_tokenizer
from tuneloop.chat import CallFormat, Chat
from tuneloop.serve.answer import Answer, Part
from tuneloop.serve.tools import ToolStage
from tuneloop.types import Message, TokenEvent, ToolCall

pytest.importorskip("transformers")

TOOLS = json.dumps([{"type": "function", "function": {"name": n, "parameters": {}}} for n in ("weather", "lookup")])
R1 = (
    "{{ bos_token }}{% for t in tools or [] %}{{ t.function.description }}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' and m.tool_calls %}<｜Assistant｜>{{ m.content or '' }}<｜tool▁calls▁begin｜>"
    "{% for c in m.tool_calls %}{{ '' if loop.first else '\n' }}<｜tool▁call▁begin｜>{{ c.type }}<｜tool▁sep｜>"
    "{{ c.function.name + '\n```json\n' + c.function.arguments + '\n```' }}<｜tool▁call▁end｜>{% endfor %}"
    "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    "{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>"
    "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
MISTRAL = (
    "{% for t in tools or [] %}[AVAILABLE_TOOLS]{{ t | tojson }}[/AVAILABLE_TOOLS]{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]"
    "{% elif m.tool_calls %}{{ m.content or '' }}[TOOL_CALLS] [{% for c in m.tool_calls %}{{ ', ' if not loop.first else '' }}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% endfor %}]<|im_end|>{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


def special(style: Style, template: str, words: tuple[str, ...]) -> Any:
    """A tokenizer whose markers are special: an ordinary detokeniser leaves them out."""
    tokenizer = tiny_tokenizer(style)
    tokenizer.add_special_tokens({"additional_special_tokens": list(words)})
    tokenizer.chat_template = template
    return tokenizer


CHATS = {name: Chat(tool_tokenizer(name)) for name in TEMPLATES} | {
    "written out": Chat(tiny_tokenizer("chatml")),
    "deepseek, special": Chat(special("r1-distill", TEMPLATES["deepseek"][1], TEMPLATES["deepseek"][2])),
    "r1, special": Chat(special("r1-distill", R1, TEMPLATES["deepseek"][2])),
    "mistral, special": Chat(special("chatml", MISTRAL, ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]"))),
}
FOUND = {
    "qwen": "hermes", "llama": "llama", "deepseek": "deepseek", "written out": "hermes",
    "deepseek, special": "deepseek", "r1, special": "deepseek", "mistral, special": "mistral",
}  # fmt: skip

text = st.sampled_from(
    ["where?", "北京 <b>", 'a "quoted" word', "line\nline", "🙂", "</tool_call>", "\\", "{", "<tool", "```", "; ["]
)
values = text | st.integers(-5, 5) | st.booleans() | st.none() | st.lists(text, max_size=2)
call = st.builds(
    lambda name, arguments: ToolCall(name, json.dumps(arguments, ensure_ascii=False)),
    st.sampled_from(["weather", "lookup"]),
    st.dictionaries(st.sampled_from(["city", "天", "n"]), values, max_size=3),
)
content = st.sampled_from(["", "I look.", "北京 <b>", "line\n\nline", "a <tool b", "<"])


def read(chat: Chat, ids: tuple[int, ...], cuts: list[int], prompt: str = "") -> Answer:
    assert chat.call_format is not None
    answer = Answer(chat, prompt, stages=[ToolStage(chat.call_format, lambda c: c.name != "no")], calls=True)
    edges = sorted({0, len(ids), *(c for c in cuts if c < len(ids))})
    for i in range(len(edges) - 1):
        answer.add(TokenEvent("r", ids[edges[i] : edges[i + 1]]))
    answer.add(TokenEvent("r", finish="stop"))
    return answer


@pytest.mark.parametrize("name", CHATS)
def test_the_syntax_of_a_template_is_found(name: str) -> None:
    found = CHATS[name].call_format
    assert found is not None
    assert found.syntax.name == FOUND[name]


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_calls_come_back_as_they_were_written(name: str, data: st.DataObject) -> None:
    chat, one = CHATS[name], name == "llama"
    calls = tuple(data.draw(st.lists(call, min_size=1, max_size=1 if one else 3)))
    said = "" if one else data.draw(content)
    ask = (Message("user", "where?"),)
    prompt = chat.render(ask, generation=True, tools=TOOLS)
    ids = chat.answer_ids(Message("assistant", said, tool_calls=calls), prompt)[: -len(chat.end_ids)]
    answer = read(chat, ids, data.draw(st.lists(st.integers(1, 200), max_size=30)), prompt)
    assert [json.loads(c) for c in answer.calls] == [{"name": c.name, "arguments": c.arguments} for c in calls]
    assert (answer.content, answer.finish) == (said, "tool_calls")


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_text_is_cut_the_same_in_every_chunking_and_without_calls_nothing_is_lost(
    name: str, data: st.DataObject
) -> None:
    found = CHATS[name].call_format
    assert found is not None
    pieces = ["<tool_call>", "</tool_call>", "{", "}", '"', "\\", " ", "\n", "x", '{"name": "no", "arguments": {}}',
              '{"name": "w", "arguments": {}}', "[TOOL_CALLS]", "[", "]", *found.syntax.markers]  # fmt: skip
    whole = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=12)))
    cuts = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, max(len(whole), 1)), max_size=20))})
    at_once, in_pieces = (
        passed(found, [whole]),
        passed(found, [whole[a:b] for a, b in pairwise(cuts)]),
    )
    assert joined(at_once) == joined(in_pieces)
    if not any(kind == "call" for kind, _ in at_once):
        assert joined(at_once)[0] == whole


def passed(found: CallFormat, pieces: list[str]) -> list[Part]:
    stage = ToolStage(found, lambda c: c.name != "no")
    parts = [part for piece in pieces for part in stage.feed([("content", piece)])]
    return parts + stage.finish()


def joined(parts: list[Part]) -> tuple[str, list[str]]:
    return "".join(t for kind, t in parts if kind == "content"), [t for kind, t in parts if kind == "call"]


def forced_text(found: CallFormat, names: tuple[str, ...], arguments: str) -> str | None:
    """An answer held to a call of the first of these functions; None where only one can be forced."""
    grammar = found.grammar({name: {"type": "object"} for name in names})
    if grammar is None:
        return None
    body = arguments
    if names[0] not in grammar.before:
        schema = json.loads(grammar.schema)
        inner = schema.get("anyOf", [schema])[0]
        inner = inner.get("items", inner)
        given = {
            "name": names[0],
            **dict.fromkeys(("arguments", "parameters"), json.loads(arguments)),
            "id": "abcdefghi",
        }
        value = {key: given[key] for key in inner["properties"]}
        body = json.dumps([value] if "array" in json.dumps(schema) else value, ensure_ascii=False)
    return grammar.before + body + grammar.after


@pytest.mark.parametrize("name", CHATS)
def test_a_forced_call_is_read_back_by_the_same_format(name: str) -> None:
    """What the grammar holds an answer to is what the template writes."""
    found = CHATS[name].call_format
    assert found is not None
    said = forced_text(found, ("weather",), '{"city": "北京"}')
    assert said is not None
    stage = ToolStage(found, lambda _: True)
    parts = stage.feed([("content", said)]) + stage.finish()
    ((kind, text),) = parts
    assert kind == "call"
    assert json.loads(text)["name"] == "weather"
    assert json.loads(json.loads(text)["arguments"]) == {"city": "北京"}


@pytest.mark.parametrize("names", [("weather",), ("weather", "lookup")])
@pytest.mark.parametrize("name", CHATS)
def test_a_forced_call_that_is_cut_anywhere_is_what_is_known_of_it_and_no_markup(
    name: str, names: tuple[str, ...]
) -> None:
    found = CHATS[name].call_format
    assert found is not None
    arguments = '{"arguments": "a } b", "name": "北京"}'
    whole = forced_text(found, names, arguments)
    if whole is None:
        assert found.syntax.name == "deepseek"  # the name stands outside of its JSON
        return
    before = ""
    for end in range(len(whole) + 1):
        stage = ToolStage(found, lambda _: True, forced=names)
        parts = [part for character in whole[:end] for part in stage.feed([("content", character)])] + stage.finish()
        assert [kind for kind, _ in parts] == ["call"] * len(parts)
        if not parts:
            assert (len(names), before) == (2, "")
            continue
        (call,) = (json.loads(text) for _, text in parts)
        assert call["name"] == "weather"
        assert arguments.startswith(call["arguments"])
        assert call["arguments"].startswith(before)
        before = call["arguments"]
    assert before == arguments
