from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.train.runs import settings
from tuneloop.chat import Chat
from tuneloop.rundir import RunDir
from tuneloop.train.loop import Loop, Start
from tuneloop.train.methods import prepare
from tuneloop.train.objectives import create
from tuneloop.train.plan import draw
from tuneloop.train.samples import SAMPLES, Sampler, generate, read, split
from tuneloop.types import Example, Message, Record


def chat() -> Chat:
    return Chat(tiny_tokenizer("smollm"))


def example(talk: Chat, question: str, answer: str) -> Example:
    (made,) = talk.examples(Record(question, (Message("user", question), Message("assistant", answer))))
    return made


def looped(out: Path, epochs: float, **more: object) -> tuple[Loop, Chat, Example]:
    talk = chat()
    held = example(talk, "where is my card", "card_lost")
    config = settings(
        method="full", learning_rate=3e-3, epochs=epochs, validation={"samples": 1, "every_steps": 4}, **more
    )
    torch.manual_seed(0)
    model = prepare(tiny_model("llama", vocab_size=len(talk.tokenizer)), config)
    plan = draw([len(held.input_ids)] * 4, batch_size=4, epochs=epochs)
    out.mkdir(parents=True, exist_ok=True)
    run = RunDir(out)
    return (
        Loop(model, create(model, config), [held] * 4, [held], plan, config, run, Start(), Sampler(talk, [held], run)),
        talk,
        held,
    )


def test_the_prompt_is_what_serving_sends() -> None:
    talk = chat()
    prompt, reference = split(example(talk, "hi there", "yes"))
    assert prompt == talk.prompt_ids([Message("user", "hi there")])
    assert talk.decode(reference) == "yes"


def test_of_a_conversation_the_last_answer_is_asked_for() -> None:
    row = Example("a", (1, 2, 3, 4, 5, 6, 7), (False, True, True, False, True, True, False))
    assert split(row) == ((1, 2, 3, 4), (5, 6))


def test_the_answer_is_greedy_by_hand(tiny: Callable[..., Path]) -> None:
    talk = chat()
    model = tiny_model("llama", vocab_size=len(talk.tokenizer))
    prompt = talk.prompt_ids([Message("user", "what is this fee")])
    ids = list(prompt)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in talk.stop_ids:
            break
    assert generate(model, talk, prompt, max_new_tokens=6) == ids[len(prompt) :]


def test_answers_become_what_was_taught_and_are_written_at_each_validation(tmp_path: Path) -> None:
    loop, talk, held = looped(tmp_path, epochs=40)
    loop.run()
    found = read(RunDir(tmp_path))
    assert [row["step"] for row in found] == list(range(4, 41, 4))
    assert found[-1]["answer"] == found[-1]["reference"] == "card_lost"
    assert found[-1]["prompt"] == talk.tokenizer.decode(split(held)[0])


def test_sampling_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    with_samples, _, _ = looped(tmp_path / "a", epochs=8, lora={"dropout": 0.1})
    without, _, _ = looped(tmp_path / "b", epochs=8, lora={"dropout": 0.1})
    without.sampler = None
    with_samples.run()
    without.run()
    for (name, one), two in zip(with_samples.parameters.items(), without.parameters.values(), strict=True):
        assert torch.equal(one, two), name


def test_a_resumed_run_has_each_sample_once(tmp_path: Path) -> None:
    loop, _, _ = looped(tmp_path, epochs=8)
    (tmp_path / SAMPLES).write_text('{"step": 4, "id": "x"}\n{"step": 8, "id": "late"}\n{"step": 8, "id": "cu', "utf-8")
    assert loop.sampler is not None
    loop.sampler.resume_at(4)
    assert [row["id"] for row in read(RunDir(tmp_path))] == ["x"]
