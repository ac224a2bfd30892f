# One word for each habit. `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format install-nginx install-chromium install-system clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(VENV)/.installed-dev  ## Make the virtual environment with everything but torch

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-all: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-all

demo: $(VENV)/.installed-all  ## A batch on a primary and a standby; the primary is killed half-way
	$(BIN)/python examples/demo.py

test: install  ## Every test; says what it skipped for want of a system program
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install  ## Ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install-nginx:  ## (root, Debian) nginx, for the tests of the front door
	apt-get update -qq && apt-get install --yes -qq --no-install-recommends nginx

install-chromium:  ## (root, Debian) Chromium, for the tests of pages
	apt-get update -qq && apt-get install --yes -qq --no-install-recommends chromium

install-system: install-nginx install-chromium  ## (root, Debian) all system programs that tests use

clean:  ## Remove what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
