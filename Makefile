# Each target makes the environment it needs. PYTHON may be any Python from 3.11 on: make test PYTHON=python3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compiled modules are kept: a test run starts hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo fast test lab check notebooks docs clean

help:
	@echo "make demo    run the quickstart notebook against the built-in simulator and show its latency table"
	@echo "make fast    the tests that start no process and draw no figure, for every edit"
	@echo "make test    all tests: these, processes, benchmarks, figures, kernels and the notebooks"
	@echo "make lab     JupyterLab on notebooks/"
	@echo "make check   ruff and its formatter, mypy, the layering test"
	@echo "make docs    the documentation site, in build/site"
	@echo "make clean   remove what the others made"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nbllm needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "This Python has no venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python -m nbllm.demo

FAST = not kernel and not slow and not real and not browser

fast: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist worksteal --hypothesis-profile=few -m "$(FAST)"

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal
	$(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval.cfg notebooks

$(VENV)/.lab: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lab]'
	@touch $(VENV)/.lab

lab: $(VENV)/.lab
	$(BIN)/jupyter lab notebooks

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

# Runs the notebooks and stores their outputs, which `make test` compares with.
notebooks: $(STAMP)
	$(BIN)/python -m nbllm.demo --store notebooks/*.ipynb

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $(VENV)/.docs

# The site, in build/site.
docs: $(VENV)/.docs
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
