# Commands. Each does its own set-up:
#   make quickstart            train, evaluate and report on this machine's CPU   (ALGO=grpo, SEED=1, MODEL=PATH, WANDB=offline)
#   make test                  lint and every test, the real stack included
#   make bench                 every table of docs/performance.md that a CPU can make   (BENCH=out/bench, BENCH_FLAGS=--quick)
#   make install-gpu           the CUDA stack of requirements/gpu.txt                     (GPU_VENV=.venv-gpu)
#   make bench-gpu             the tables that need one GPU, in the environment of install-gpu
PYTHON ?= python3.11
VENV ?= .venv
export ALGO ?= rpg-reinforce-urkl
export MODEL ?=
export OUT ?= out/quickstart-$(ALGO)
STUDY ?= objective
COMPARE ?= out/$(if $(filter objective,$(STUDY)),compare,$(STUDY))
JOBS ?= 2
export SEED ?= 1
export WANDB ?= disabled
export BENCH ?= out/bench
BENCH_FLAGS ?=
GPU_VENV ?= .venv-gpu
STAMP = $(VENV)/.installed
GPU_STAMP = $(GPU_VENV)/.installed
BIN = $(abspath $(VENV))/bin

.PHONY: install install-gpu quickstart compare bench bench-gpu test test-fast lint format oracle estimators

install: $(STAMP)

$(STAMP): requirements/cpu.txt requirements/install.sh setup.py
	@requirements/install.sh $(VENV) $(PYTHON) cpu
	@$(BIN)/python requirements/check.py
	@touch $@

install-gpu: $(GPU_STAMP)

$(GPU_STAMP): requirements/gpu.txt requirements/install.sh setup.py
	@requirements/install.sh $(GPU_VENV) $(PYTHON) gpu
	@touch $@

quickstart: $(STAMP)
	@PATH="$(BIN):$$PATH" examples/scripts/quickstart_cpu.sh

bench: $(STAMP)
	@$(BIN)/python benchmarks/run.py --out "$(BENCH)" $(BENCH_FLAGS)

bench-gpu: $(GPU_STAMP)
	@$(GPU_VENV)/bin/python benchmarks/run.py --out "$(BENCH)-gpu" --device cuda $(BENCH_FLAGS)

# Real runs wait more than they compute, so two workers run them side by side: the longest run first and the unit tests
# last, so that both workers end together (tests/integration/conftest.py). A run needs up to 7 GiB.
test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

estimators: $(STAMP)
	$(BIN)/python -m examples.estimators.report

oracle: $(STAMP)
	$(BIN)/python -m tests.oracle

# Run a study of docs/: objective (comparison.md) or staleness (asynchronous.md). It takes hours on two cores; the same
# command resumes. (STUDY=objective COMPARE=FOLDER JOBS=2 SEEDS=12)
compare: $(STAMP)
	$(BIN)/python -m examples.comparison.train --study $(STUDY) --out "$(COMPARE)" --jobs $(JOBS) $(if $(SEEDS),--seeds $(SEEDS))
	$(BIN)/python -m examples.comparison.report --study $(STUDY) --out "$(COMPARE)" $(if $(SEEDS),--seeds $(SEEDS))
