# Everything runs in .venv, which these targets make: nothing to install first but Python and make.
# What is installed there is remembered in stamp files; a new pyproject.toml makes them old.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough; if that is an environment's, the one it was made from.
PYTHON ?= $(firstword $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.version_info < (3, 11) or print(sys._base_executable)' 2>/dev/null || true; done))
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet
# A process for each core; one of them has all tests of real parts (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -q -n $(shell nproc) --durations=20 --durations-min=5
ARGS ?= --help

# An environment that was copied or moved here runs another checkout's code: forget what was installed.
ifeq (,$(shell grep -lF '$(CURDIR)/$(VENV)/' $(BIN)/pip 2>/dev/null))
$(shell rm -f $(VENV)/*.stamp)
endif

.PHONY: help demo demo-model test check lint soak bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/run.stamp  ## Run the whole pipeline on a small generated catalog; no network once installed
	$(BIN)/bitsieve demo

demo-model: $(VENV)/test.stamp  ## Train the built-in model again, from its seed
	$(BIN)/python -m jobs.demo_model

test: lint  ## Static checks, then every test
	$(PYTEST)

check: lint  ## Static checks, then the quick tests; under two minutes
	$(PYTEST) tests/unit tests/property tests/golden

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/test.stamp  ## Every fault at full size, and long random histories; figures go to soak.json
	BITSIEVE_SOAK=1 BITSIEVE_TALLY=soak.json $(BIN)/python -m pytest -q tests/fault tests/property/test_history.py
	@cat soak.json

bench: $(VENV)/run.stamp  ## Run a benchmark: make bench ARGS="index --rows 1000000"
	$(BIN)/bitsieve bench $(ARGS)

clean:  ## Remove the environment and everything that tools left behind
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made.stamp:
	@test -n "$(PYTHON)" || { echo "bitsieve needs Python 3.11 or newer: apt install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python has no venv module: apt install python3-venv" >&2; exit 1; }
	clear=--clear; grep -qF '$(CURDIR)/$(VENV)/' $(BIN)/pip 2>/dev/null && clear=; $(PYTHON) -m venv $$clear $(VENV)
	$(PIP) --upgrade pip
	touch $@

# The test tools include what a run needs, so they satisfy both stamps.
$(VENV)/run.stamp: pyproject.toml | $(VENV)/made.stamp
	$(PIP) --editable '.[cpu]'
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/made.stamp
	$(PIP) --editable '.[cpu,kernel,metrics,train,test]'
	touch $@ $(VENV)/run.stamp
