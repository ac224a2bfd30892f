# One word for each habit. `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# More than cores: tests of real workers wait most of their time. Files go in the order of their
# names, not those with the most tests first, which leaves the long ones of few tests for the end.
TEST_JOBS ?= 4
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder
SEED ?= 7
MINUTES ?= 60
ROUNDS ?= 50

.DEFAULT_GOAL := help
.PHONY: help install demo test drills model mutants simulate bench bench-failover chaos chaos-long lint format install-bench install-nginx install-chromium install-spin install-system clean

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

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PIP_INSTALL) --editable '.[bench]'
	@touch $@

demo: $(VENV)/.installed-all  ## A batch on a primary and a standby; the primary is killed half-way
	$(BIN)/python examples/demo.py

test: install  ## Every test but the drills; says what it skipped for want of a system program
	$(PYTEST) -m "not drill"
	@echo "Not in here: make drills (failures rehearsed at length), make model, make chaos, make mutants"

drills: install  ## Failures of every kind rehearsed at length with real processes: the other tests
	$(PYTEST) -m drill

chaos: install  ## Hurt a real cluster for three minutes in every way we know, and judge it
	$(BIN)/python -m tests.chaos --minutes 3 --seed $(SEED)

chaos-long: install  ## The same for MINUTES=60 with SEED=7, by hand
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

model: $(VENV)/.made  ## Every state of a model of lease, claim and publish; its broken variants must fail
	$(BIN)/python model/check.py

mutants: install  ## Put bugs in, one at a time: the tests must find every one
	$(BIN)/python -m tests.mutants

simulate: install  ## 2,000 clusters under virtual time, with faults from a seed each
	$(BIN)/python -m tests.simulation --seeds 2000

bench: $(if $(NAME),$(VENV)/.installed-bench,$(VENV)/.made)  ## Measure NAME=dispatch, busy, priority, memory or scale; without NAME: list them
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

bench-failover: install  ## Failover, measured beside bare Celery and a health-check script
	$(BIN)/python -m benchmarks.failover --rounds $(ROUNDS)

lint: install  ## Ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy model/check.py

format: install  ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install-bench: $(VENV)/.installed-bench  ## What the benchmarks compare with, and draw plots with

install-nginx:  ## (root, Debian) nginx, for the tests of the front door
	apt-get update -qq && apt-get install --yes -qq --no-install-recommends nginx

install-chromium:  ## (root, Debian) Chromium, for the tests of pages
	apt-get update -qq && apt-get install --yes -qq --no-install-recommends chromium

install-spin:  ## (root, Debian) spin and gcc, for the model
	apt-get update -qq && apt-get install --yes -qq --no-install-recommends spin gcc libc6-dev

install-system: install-nginx install-chromium install-spin  ## (root, Debian) all system programs that tests use

clean:  ## Remove what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
