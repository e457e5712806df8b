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
left my card in the cash machine last night,card_lost
please block my card i lost it,card_lost
is my card gone for good? it was in the bag that got nicked,card_lost
Hello I have misplaced my debit card. Could you send another one?,card_lost
lost card!!,card_lost
"my purse was taken at the market, both cards were in it",card_lost
the app says wrong password,login_problem
cannot sign in since the update,login_problem
i never get the code by text so i cant log in,login_problem
locked out of online banking,login_problem
face unlock stopped working in your app,login_problem
"new phone, how do I get back into my account?",login_problem
it logs me out every ten seconds,login_problem
forgot my user name,login_problem
The website does not accept my one-time code.,login_problem
login page is just white,login_problem
why did you charge me 3 euros,fee_question
what is the monthly fee for,fee_question
i was charged for a transfer abroad why,fee_question
is there a fee for cash withdrawals,fee_question
how much does a second card cost,fee_question
"You took 12.50 last Friday and call it a service charge, what service?",fee_question
do i pay for paying in dollars,fee_question
are instant payments free,fee_question
I was told the account costs nothing. Why is there a fee on my statement?,fee_question
fee for overdraft?,fee_question
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
