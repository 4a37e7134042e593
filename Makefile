# Set loupe up, show it, test it, check it, measure it, and build its pages. Each target makes the environment that it needs.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-dev.txt
DEV := $(VENV)/.loupe-dev
DOCS := $(VENV)/.loupe-docs

.PHONY: demo test check bench bench-gpu bench-instructions docs venv

demo: $(DEV)
	$(BIN)/python examples/activation_patching.py

test: $(DEV)
	$(BIN)/python -m pytest

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/lint-imports

bench: $(DEV)
	$(BIN)/python benchmarks/run.py --markdown docs/benchmarks.md
	$(BIN)/python benchmarks/phases.py --markdown docs/phases.md
	$(BIN)/python benchmarks/savings.py --markdown docs/savings.md

bench-gpu: $(DEV)
	$(BIN)/python benchmarks/run.py --device cuda

bench-instructions: $(DEV)
	$(BIN)/python benchmarks/instructions.py

docs: $(DOCS)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

venv: $(DEV)

# torch comes first and by itself: as somebody else's requirement it would bring gigabytes of CUDA.
$(DEV): pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) --editable ".[dev]"
	touch $@

$(DOCS): $(DEV)
	$(PIP) --editable ".[docs]"
	touch $@
