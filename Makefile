# `make` says what there is to make. Everything is installed into .venv, from versions that were tested (constraints.txt).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test test-real lint check format docs pins clean

# pip leaves compiling to the first import (half the time of installing), so what runs from here may keep it.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
BIN := .venv/bin
USED := .venv/.installed-weitiao
STAMP := .venv/.installed
CODE := src tests docs bench
WORKERS ?= 2

help:  ## say what there is to make
	@echo "weitiao: targets of this Makefile"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

env: $(STAMP)  ## make .venv and install weitiao with its tools (first time: some minutes)

$(USED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "make: weitiao needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing). Name another one: make env PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "make: this Python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "make: installing weitiao into .venv (a minute or two the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --no-compile -c constraints.txt -e .
	@touch $(USED)

$(STAMP): $(USED)
	@echo "make: installing the tools of tests and checks (some minutes the first time)"
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(USED)  ## run the whole path on made-up data: fetches 491 MB of weights, trains, compares (ten minutes on 2 cores)
	$(BIN)/weitiao demo

test: env  ## run the tests (some 15 minutes; no network, no GPU)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not real and not engines and not load and not torchvision"

test-real: env  ## run the tests that need the bundled 0.5B model (fetches it once)
	$(BIN)/python -m pytest -m real

lint: env  ## check format, style, types and docstrings
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/pydoclint --quiet src/weitiao
	$(BIN)/python docs/generate.py --check

check: lint test  ## everything that must pass before a change is handed in

format: env  ## put the code into the project's format
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

docs: env  ## write docs/cli.md and docs/recipe.md anew from help texts
	$(BIN)/python docs/generate.py

pins: env  ## write constraints.txt from what is installed now
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//' > constraints.txt

clean:  ## remove .venv and caches (runs stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
