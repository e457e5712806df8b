"""``tuneloop trace``: one row through every stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tuneloop import chat, data, models
from tuneloop.cli.options import print_json
from tuneloop.cli.runs import find
from tuneloop.rundir import Run
from tuneloop.types import SPLITS, Dropped, Record


def show(row: str, run_name: str | None, *, as_json: bool) -> None:
    """Print everything known about a row."""
    run = find(run_name)
    found = data.explain(run.dir("data").path, row)
    record = _record(run, found.id)
    answers = _answers(run, found.id)
    steps = _steps(run, found.id)
    if as_json:
        print_json({"row": found, "record": record, "training_steps": steps, "answers": answers})
        return
    console = Console(highlight=False, soft_wrap=True)
    show_row(run.dir("data").path, found.id, console=console)
    if record is not None:
        _show_tokens(run, record, console)
    if steps:
        console.print(Text("trained ", style="bold") + Text(f"in step {', '.join(map(str, steps))}"))
    for name, answer in answers.items():
        line = Text(f"{name:12}", style="bold") + Text(f"answered {answer['answer']!r}")
        scores = ", ".join(f"{k} {v:g}" for k, v in answer["scores"].items())
        console.print(line + Text(f"  expected {answer['reference']!r}  ({scores})", style="dim"))
    if {"base", "tuned"} <= answers.keys():
        console.print(Text("judged   ", style="bold") + Text(_judgement(answers["base"], answers["tuned"])))


def show_row(folder: Path, row: str, *, as_json: bool = False, console: Console | None = None) -> None:
    """The data stage's part: raw, each change, fate."""
    found = data.explain(folder, row)
    if as_json:
        print_json(found)
        return
    console = console or Console(highlight=False, soft_wrap=True)
    console.print(Text("row      ", style="bold") + Text(f"{found.id}  {found.origin}"))
    console.print(Text("raw      ", style="bold") + Text(found.raw))
    for change in found.changes:
        console.print(Text(f"{change.step:9}", style="bold cyan") + Text(f"{change.before!r} -> {change.after!r}"))
    fate = f"dropped by {found.step}: {found.reason}" if found.fate == "dropped" else f"kept, {found.fate} split"
    if found.partner:
        fate += f" (see {found.partner})"
    console.print(Text("fate     ", style="bold") + Text(fate, style="red" if found.fate == "dropped" else "green"))


def _record(run: Run, row_id: str) -> Record | None:
    for split in SPLITS:
        for record in data.read_records(run.dir("data").path, split):
            if record.id == row_id:
                return record
    return None


def _show_tokens(run: Run, record: Record, console: Console) -> None:
    bundle = run.dir("train") / "bundle"
    if not bundle.exists():
        return
    talk = chat.Chat(models.load_tokenizer(bundle))
    lost: list[Dropped] = []
    examples = talk.examples(record, dropped=lost)
    for row in lost:
        console.print(Text("not learned ", style="bold") + Text(row.reason))
    for example in examples:
        console.print(
            Text("tokens   ", style="bold") + Text(f"{len(example.input_ids)}, learned: {example.label_tokens}")
        )
        text = Text()
        for i, (token, learned) in enumerate(zip(example.input_ids, example.loss_mask, strict=True)):
            style = "black on green" if learned else ("dim" if i % 2 else "")
            text.append(talk.decode((token,)) or talk.tokenizer.convert_ids_to_tokens(token), style=style)
        console.print(text)


def _steps(run: Run, row_id: str) -> list[int]:
    """Optimizer steps (from 1) in which the row was trained."""
    path = run.dir("train") / "plan.json"
    if not path.exists():
        return []
    plan = json.loads(path.read_text(encoding="utf-8"))
    mine = {i for i, name in enumerate(plan["ids"]) if name == row_id or name.startswith(f"{row_id}:")}
    steps = (step for stage in plan["stages"] for step in stage["steps"])
    return [n for n, step in enumerate(steps, 1) if any(i in mine for micro in step for i in micro)]


def _answers(run: Run, row_id: str) -> dict[str, dict[str, Any]]:
    out = {}
    for name in ("base", "tuned", "compressed"):
        path = run.dir(f"evaluate-{name}") / "scores.jsonl"
        if path.exists():
            with path.open(encoding="utf-8") as file:  # not splitlines: an answer may hold U+2028
                rows = (json.loads(line) for line in file)
                found = next((row for row in rows if row["id"] == row_id), None)
            if found is not None:
                out[name] = found
    return out


def _judgement(base: dict[str, Any], tuned: dict[str, Any]) -> str:
    metric = "accuracy" if "accuracy" in tuned["scores"] else next(iter(tuned["scores"]), None)
    if metric is None:
        return "no score"
    gain = tuned["scores"][metric] - base["scores"][metric]
    return f"{'win' if gain > 0 else 'loss' if gain < 0 else 'tie'} for the tuned model on {metric}"
