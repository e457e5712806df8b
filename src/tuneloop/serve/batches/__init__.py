"""OpenAI's files and batches: many requests in one file, answered in the background whenever the engine has room.

files.py    what is uploaded and what comes out, on the disk
ledger.py   what exists, whose it is and how far it is, in the database
lines.py    an input file: every line checked, with its number
results.py  answers, appended and on the disk before they count
run.py      one batch
worker.py   all of them
"""
