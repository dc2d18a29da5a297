# Commands, each does all of its own set-up:
#   make quickstart            train, evaluate and report on this machine's CPU   (ALGO=grpo, SEED=1, MODEL=PATH, WANDB=offline)
#   make test                  lint and every test, the real stack included
#   make bench                 every table of docs/performance.md that a CPU can make   (BENCH=out/bench, BENCH_FLAGS=--quick)
#   make bench-gpu             those that need one GPU, in an environment of their own   (GPU_VENV=.venv-gpu)
PYTHON ?= python3.11
VENV ?= .venv
export ALGO ?= rpg-reinforce-urkl
export MODEL ?=
export OUT ?= out/quickstart-$(ALGO)
COMPARE ?= out/compare
export SEED ?= 1
export WANDB ?= disabled
export BENCH ?= out/bench
BENCH_FLAGS ?=
GPU_VENV ?= .venv-gpu
STAMP = $(VENV)/.installed
GPU_STAMP = $(GPU_VENV)/.installed
BIN = $(abspath $(VENV))/bin

.PHONY: install quickstart compare bench bench-gpu test test-fast lint format oracle

install: $(STAMP)

# The pinned stack has wheels for this Python alone.
NEEDS_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	{ echo "make: $(PYTHON) is no CPython 3.11, which the pinned packages need: install it, or name one with make PYTHON=/path/to/python3.11" >&2; exit 2; }

# The whole stack is pinned, so nothing needs resolving. pip byte-compiles on one core, compileall on all of them.
$(STAMP): requirements/cpu.txt setup.py
	@$(NEEDS_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements/cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@$(BIN)/python requirements/check.py
	@touch $@

quickstart: $(STAMP)
	@PATH="$(BIN):$$PATH" examples/scripts/quickstart_cpu.sh

bench: $(STAMP)
	@$(BIN)/python benchmarks/run.py --out "$(BENCH)" $(BENCH_FLAGS)

# The CPU stack's torch has no CUDA: the same packages, with the torch that pip finds for GPUs and without vLLM.
$(GPU_STAMP): requirements/cpu.txt setup.py
	@$(NEEDS_PYTHON)
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements/cpu.txt)"
	grep -v -e '^torch==' -e '^vllm' requirements/cpu.txt > $(GPU_VENV)/rest.txt
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $(GPU_VENV)/rest.txt
	$(GPU_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

bench-gpu: $(GPU_STAMP)
	@$(GPU_VENV)/bin/python benchmarks/run.py --out "$(BENCH)-gpu" --device cuda $(BENCH_FLAGS)

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
