# Tuneloop. `make help` lists the targets. Needs python3 (3.11 to 3.13), make and git; scripts/bootstrap.py does the rest.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM = false

.PHONY: help install install-tests demo test test-slow lint format bench bench-train bench-data bench-serve bench-tables constraints clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install:  ## make .venv with the pinned dependencies (does nothing when it is up to date)
	@$(PYTHON) scripts/bootstrap.py

install-tests:  ## the same with everything that the tests need
	@$(PYTHON) scripts/bootstrap.py --tests

demo: install  ## the whole loop on a real small model: raw file to served, compared model and report
	@$(BIN)/tuneloop run examples/bank-support/tuneloop.yaml

test: install-tests  ## the tests
	@$(BIN)/python -m pytest -q -m "not slow"

test-slow: install-tests  ## the longer proofs
	@$(BIN)/python -m pytest -q -m slow --timeout 3600

lint: install-tests  ## ruff and mypy --strict
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: install  ## let ruff sort imports and format
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: bench-train bench-data bench-serve  ## every benchmark that runs on a CPU

bench-data: install-tests  ## the data room: documents, personal data, duplicates, split, steps, readers, a million rows
	@for bench in documents personal neardup split steps formats reading data_pipeline; do $(BIN)/python benchmarks/$$bench.py || exit 1; done

bench-train: install-tests  ## training speed beside TRL (in its own environment), cached stages, expert adapters, distillation, Banking77 whole (an hour)
	@for bench in train_cpu train_staged expert_adapters distil banking77; do $(BIN)/python benchmarks/$$bench.py || exit 1; done

bench-serve: install-tests  ## the engines beside each other, gateways, and what the filters find and cost
	@for bench in serve filters; do $(BIN)/python benchmarks/$$bench.py || exit 1; done

bench-tables: install  ## write the benchmark tables into both READMEs
	@$(BIN)/python benchmarks/tables.py

constraints:  ## renew constraints.txt from a fresh environment
	@$(PYTHON) scripts/bootstrap.py --freeze

clean:  ## remove .venv and caches (runs stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
