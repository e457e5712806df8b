"""Tables of text: Alpaca, question and answer, text and class, plain text."""

from __future__ import annotations

from tuneloop.data.columns import (
    CONTEXTS,
    LABELS,
    PAIR_LABELS,
    PAIRS,
    PLAIN,
    TEXTS,
    TITLES,
    Names,
)
from tuneloop.data.formats.conversation import list_part
from tuneloop.data.formats.flat import Flat
from tuneloop.data.formats.nouns import Detected, Parsed, Part, Row, Turn, Unusable, says, unique
from tuneloop.data.formats.turns import conversation, spelling
from tuneloop.data.formats.values import first, listed, text

_INSTRUCTIONS, _INPUTS = ("instruction", "指令"), ("input", "context", "输入")
_OUTPUTS = ("output", "response", "answer", "completion", "输出", "回答")
_TALK = ("messages", "conversations", "chosen", "rejected")
"""Columns of conversations: where these do not fit, the rows are damaged, not mere tables."""
_PAGE_CHARS = 50
"""A column ``page`` is text, not a page number or an address, when its values are at least this long on average."""


def find_alpaca(names: Names) -> Detected | None:
    instruction = names.find(*_INSTRUCTIONS)
    output = names.response or names.find(*_OUTPUTS)
    instances = names.find("instances")
    if instruction is None or names.prompt or output == instruction:
        return None
    if output is None:
        return _instances(names, instruction, instances) if instances else None
    flat = Flat(
        unique(instruction, names.find(*_INPUTS)),
        output,
        system=names.find("system"),
        label=names.classes(*PAIR_LABELS),
    )
    return _with_history(
        Detected("alpaca", f"Alpaca ({' + '.join([*flat.asked, output])})", flat.used, flat.parse, flat), names
    )


def _instances(names: Names, instruction: str, instances: str) -> Detected:
    """Seeds of self-instruct: an instruction with a list of {input, output}."""

    def parse(row: Row) -> Parsed:
        examples = listed(row.get(instances), instances)
        if not examples or not isinstance(examples[0], dict):
            raise Unusable(f"wrong shape: {instances!r} is a list of objects with input and output")
        asked = [text(row.get(instruction)), text(examples[0].get("input"))]
        said = "\n".join(part for part in asked if part.strip())
        return Parsed([says("user", said), says("assistant", first(examples[0].get("output")))])

    several = any(isinstance(v := r.fields.get(instances), list) and len(v) > 1 for r in names.file.head)
    words = f"Alpaca ({instruction} + {instances})" + (f", the first of the {instances}" if several else "")
    return Detected("alpaca", words, (instruction, instances), parse)


def find_pair(names: Names) -> Detected | None:
    prompt, response = _pair_columns(names)
    if prompt is None or response is None or prompt == response:
        return None
    if names.label in (prompt, response) and names.response is None:
        return None
    if names.list_sample(prompt) and spelling(names.list_sample(prompt)):
        return _pair_of_lists(names, prompt, response)
    system, context = names.find("system"), names.find(*CONTEXTS)
    context = context if context not in (prompt, response) and names.is_text(context) else None
    title = None if context else _title(names, prompt, response)
    named = names.classes(*PAIR_LABELS)
    named = named if named not in (prompt, response, title) else None
    flat = Flat(unique(context, prompt), response, title, system, named)
    words = f"{prompt!r} answered by {response!r}"
    words += f", after the text {context!r}" if context else ""
    words += f", with title {title!r}" if title else ""
    words += f", class {named!r}" if named else ""
    words += _answers_in_words(names, prompt, response)
    return _with_history(Detected("pair", words, flat.used, flat.parse, flat), names)


def _answers_in_words(names: Names, prompt: str, response: str) -> str:
    """What a reader should know about the answers: that only the first is taken, or that they look like classes."""
    facts = names.facts(response)
    if any(isinstance(v := names.sample(c), list | dict) and first(v) != text(v) for c in (prompt, response)):
        return ", the first where there are several"
    if facts.n >= 20 and facts.like_classes and 1 < facts.distinct <= 50:
        return f" ({facts.distinct} different answers: if they are classes, set data.label_column: {response})"
    return ""


def _pair_of_lists(names: Names, prompt: str, response: str) -> Detected | None:
    """TRL's conversational prompt and completion: both are lists of messages."""
    asked = list_part(names, prompt)
    how = spelling(names.list_sample(response))
    if asked is None:
        return None

    def parse(row: Row) -> Parsed:
        given = row.get(response)
        said = conversation(listed(given, response), how) if how else [says("assistant", first(given))]
        return Parsed([*asked.turns(row), *said])

    return Detected("pair", f"messages in {prompt!r} answered by {response!r}", unique(*asked.used, response), parse)


def _pair_columns(names: Names) -> tuple[str | None, str | None]:
    """The columns of question and answer: named ones first, the other one by its usual names."""
    prompt, response = names.prompt, names.response
    if prompt and response:
        return prompt, response
    if prompt:
        return prompt, None if names.label else names.find(*dict.fromkeys(a for _, a in PAIRS))
    if response:
        return names.find(*dict.fromkeys(q for q, _ in PAIRS), *TEXTS), response
    pairs = ((names.find(q), names.find(a)) for q, a in PAIRS)
    found = next(((q, a) for q, a in pairs if q and a and q != a), None)
    if found:
        return found
    # A "label" that is a sentence, different in every row, is an answer (a summary, a translation).
    target = None if names.label else names.find(*LABELS, "target")
    source = next((c for n in (*TEXTS, "input") if (c := names.find(n)) and c != target), None)
    return (source, target) if target and names.facts(target).like_answers else (None, None)


def _title(names: Names, *others: str) -> str | None:
    title = names.find(*TITLES)
    return title if title and title not in others and names.is_text(title) else None


def _with_history(found: Detected, names: Names) -> Detected:
    """The same with the turns of a column ``history`` before the last question."""
    history = names.find("history", "历史")
    if history is None or history in found.used:
        return found

    def parse(row: Row) -> Parsed:
        parsed = found.parse(row)
        if earlier := row.get(history):
            at = 1 if parsed.turns[0]["role"] == "system" else 0
            parsed.turns[at:at] = _history(earlier, history)
        return parsed

    return Detected(found.kind, f"{found.words}, after {history!r}", (*found.used, history), parse)


def _history(value: object, column: str) -> list[Turn]:
    turns = []
    for pair in listed(value, column):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("wrong shape: history is a list of [question, answer] pairs")
        turns += [says("user", text(pair[0])), says("assistant", text(pair[1]))]
    return turns


def find_classification(names: Names) -> Detected | None:
    if names.response or names.answer_parts:
        return None
    named = names.label or next((c for n in LABELS if (c := names.find(n)) and not names.facts(c).like_answers), None)
    asked = (*TEXTS, *(q for q, _ in PAIRS)) if names.label else TEXTS
    prompt = names.prompt or next((c for n in asked if (c := names.find(n)) and c != named), None)
    if prompt is None or named is None or prompt == named:
        return None
    title = _title(names, prompt, named)
    flat = Flat((prompt,), None, title, label=named)
    facts = names.facts(named)
    words = f"text {prompt!r} with its class in {named!r}" + (f", with title {title!r}" if title else "")
    if not facts.like_classes:
        words += f" ({facts.distinct} different values in {facts.n} rows: is it a class?)"
    return Detected("classification", words, flat.used, flat.parse, flat)


def find_text(names: Names) -> Detected | None:
    column = names.prompt if names.forced == "text" else None
    column = column or (None if names.prompt else next((c for n in PLAIN if (c := _page(names, n))), None))
    if column is None:
        return None
    title = _title(names, column)
    flat = Flat((), column, title)
    words = f"plain text in {column!r}" + (f", with title {title!r}" if title else "") + " (all of it is learned)"
    return Detected("text", words, flat.used, flat.parse, flat)


def find_rows(names: Names) -> Detected | None:
    """What is left where no column has a usual name: each row as lines of ``column: value``."""
    if names.prompt or names.response or names.label or not names.file.columns or names.find(*_TALK):
        return None
    columns = names.file.columns

    def parse(row: Row) -> Parsed:
        values = ((column, text(row.get(column)).strip()) for column in columns)
        return Parsed([says("assistant", "\n".join(f"{column}: {value}" for column, value in values if value))])

    words = "no column has a usual name: each row as text, 'column: value' (all of it is learned)"
    return Detected("rows", words, tuple(columns), parse)


def _page(names: Names, name: str) -> str | None:
    column = names.find(name)
    if column is None or not names.is_text(column):
        return None
    return column if name != "page" or names.facts(column).mean_chars >= _PAGE_CHARS else None


def question_part(names: Names) -> Part | None:
    """What is asked, where the answers stand in columns of their own: an instruction, a question, or messages."""
    instruction = names.find(*_INSTRUCTIONS)
    asked = names.prompt or instruction or names.find(*dict.fromkeys(q for q, _ in PAIRS))
    if asked is None:
        return None
    if names.list_sample(asked):
        return list_part(names, asked)
    extra = names.find(*_INPUTS) if asked == instruction else None
    flat = Flat(unique(asked, extra), system=names.find("system"))
    found = _with_history(Detected("", repr(asked), flat.used, flat.parse), names)
    return Part(found.words, found.used, lambda row: found.parse(row).turns)
