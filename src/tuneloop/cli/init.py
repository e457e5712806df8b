"""``tuneloop init``: a small project to start from."""

from __future__ import annotations

from pathlib import Path

from tuneloop.errors import ConfigError
from tuneloop.rundir import write_atomic

PROJECT = """\
# A Tuneloop project. Check it with: tuneloop run {path} --dry-run
name: {name}
seed: 0

data:
  path: rows.csv               # CSV, TSV, JSON or JSONL; the format is detected and printed
  # prompt_column: question    # name the columns where detection guesses wrong
  # response_column: answer
  # label_column: intent       # a class instead of a response
  system: "Answer with exactly one of these: {{labels}}"   # {{labels}} becomes the classes of the training split

model:
  name: smollm2-135m-instruct  # or deepseek-r1-distill-qwen-1.5b, a hub name, or a local folder

train:
  method: lora                 # or full
  epochs: 3
  batch_size: 8
  learning_rate: 1e-3

compress:
  quantisation: q8_0           # 'compress: null' leaves it out
"""

ROWS = """\
message,intent
my card was stolen this morning,card_lost
i cant find my card anywhere,card_lost
someone took my wallet with the card in it,card_lost
card fell out of my pocket on the bus,card_lost
the app says wrong password,login_problem
cannot sign in since the update,login_problem
i never get the code by text so i cant log in,login_problem
locked out of online banking,login_problem
why did you charge me 3 euros,fee_question
what is the monthly fee for,fee_question
i was charged for a transfer abroad why,fee_question
is there a fee for cash withdrawals,fee_question
"""


def write(folder: Path) -> None:
    """Write tuneloop.yaml and rows.csv into a new folder.

    Raises:
        ConfigError: The folder already holds a project.
    """
    path = folder / "tuneloop.yaml"
    if path.exists():
        raise ConfigError("there is a project already", where=str(path), hint="choose another folder")
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.resolve().name).lstrip("._-") or "project"
    write_atomic(path, PROJECT.format(path=path, name=name))
    write_atomic(folder / "rows.csv", ROWS)
    print(f"wrote {path} and {folder / 'rows.csv'}\nnext: put your rows there, then  tuneloop run {path}")
