# Two commands, each does all of its own set-up:
#   make quickstart            train, evaluate and report on this machine's CPU   (ALGO=grpo, SEED=1, MODEL=PATH, WANDB=offline)
#   make test                  lint and every test, the real stack included
PYTHON ?= python3.11
VENV ?= .venv
export ALGO ?= rpg-reinforce-urkl
export MODEL ?=
export OUT ?= out/quickstart-$(ALGO)
COMPARE ?= out/compare
export SEED ?= 1
export WANDB ?= disabled
STAMP = $(VENV)/.installed
BIN = $(abspath $(VENV))/bin

.PHONY: install quickstart compare test test-fast lint format oracle

install: $(STAMP)

# The whole stack is pinned, so nothing needs resolving. pip byte-compiles on one core, compileall on all of them.
$(STAMP): requirements/cpu.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements/cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@$(BIN)/python requirements/check.py
	@touch $@

quickstart: $(STAMP)
	@PATH="$(BIN):$$PATH" examples/scripts/quickstart_cpu.sh

test: $(STAMP) lint
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

oracle: $(STAMP)
	$(BIN)/python -m tests.oracle

# The comparison of docs/comparison.md: hours on two cores; the same command again goes on   (COMPARE=FOLDER, JOBS=2, SEEDS="1 2 3 4 5")
compare: $(STAMP)
	@PATH="$(BIN):$$PATH" OUT="$(COMPARE)" examples/scripts/compare_cpu.sh
