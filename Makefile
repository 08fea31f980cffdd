# `make run` and `make test` are the two commands; the rest is what they are made of. `make help` lists all.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
UV := $(BIN)/uv
UV_VERSION := 0.13.8
PYTHON ?= python3
LIVE := tools/with-progress.sh

.DEFAULT_GOAL := help
.PHONY: help install install-dev run test check format lint types contracts sizes unit lock clean bench docs

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(VENV)/.installed  ## create .venv with `tutti` in it (locked versions, checked hashes)

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tutti needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(PY) || $(LIVE) "creating $(VENV)" $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(LIVE) "installing uv $(UV_VERSION)" $(PY) -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@$(LIVE) "installing the locked packages" $(UV) pip install -q --python $(PY) --no-deps --require-hashes -r requirements.lock
	@$(LIVE) "installing tutti" $(UV) pip install -q --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

install-dev: $(VENV)/.installed-dev  ## what the checks and tests need on top

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@$(LIVE) "installing the locked development packages" $(UV) pip install -q --python $(PY) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

run: install  ## play the main job on this machine with the embedded model
	@$(PY) -m app.demo

test: install-dev  ## everything: unit, architecture, contract, integration, acceptance
	@$(PY) -m pytest tests

check: install-dev  ## under a minute: format, lint, types, contracts, sizes, unit tests
	@$(MAKE) -s -j3 --output-sync=target unit-services unit-domain unit-rest types format-check lint contracts sizes docs-check

.PHONY: format-check docs-check unit-domain unit-services unit-rest
format-check:
	@$(BIN)/ruff format --check -q .

format:  ## rewrite the sources in the project's format
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

lint:
	@$(BIN)/ruff check -q .

types:
	@$(BIN)/mypy

contracts:
	@$(BIN)/lint-imports --no-cache >/tmp/tutti-contracts.$$$$ || { cat /tmp/tutti-contracts.$$$$; rm -f /tmp/tutti-contracts.$$$$; exit 1; }; rm -f /tmp/tutti-contracts.$$$$

sizes:
	@$(PY) tools/check_sizes.py

docs-check:
	@$(PY) -m tools.generate_docs --check

docs: install-dev  ## regenerate what is generated in docs/
	@$(PY) -m tools.generate_docs

unit: unit-domain unit-services unit-rest

# Parts of about the same length, to fill two cores.
unit-domain:
	@TUTTI_QUICK=1 $(PY) -m pytest tests/unit/app/domain tests/architecture

unit-services:
	@TUTTI_QUICK=1 $(PY) -m pytest tests/unit/app/services tests/unit/app/storage tests/unit/actors

unit-rest:
	@TUTTI_QUICK=1 $(PY) -m pytest tests/unit --ignore=tests/unit/app/domain --ignore=tests/unit/app/services --ignore=tests/unit/app/storage --ignore=tests/unit/actors

bench: install-dev  ## the benchmarks of benchmarks/README.md, with tables and plots
	@$(PY) -m benchmarks && $(PY) -m benchmarks.plots

.PHONY: torture
TORTURE_MINUTES ?= 10
torture: install-dev  ## the soak: faults and kill -9 for TORTURE_MINUTES (10), TORTURE_SEED plays one again; then events and the crash matrices
	@$(PY) -m tests.torture --minutes $(TORTURE_MINUTES) $(if $(TORTURE_SEED),--seed $(TORTURE_SEED))
	@$(MAKE) -s torture-events crash-matrix crash-ray

.PHONY: torture-events
torture-events: install-dev  ## a minute of kill -9 and faults between events and Elasticsearch: every acknowledged one exactly once
	@$(PY) -m tests.torture.events $(if $(TORTURE_SEED),--seed $(TORTURE_SEED))

.PHONY: crash-matrix
crash-matrix: install-dev  ## kill -9 at every named point of a call, bills against books; writes docs/crash-matrix.md
	@$(PY) -m tests.torture.crash_matrix --page docs/crash-matrix.md $(if $(TORTURE_SEED),--seed $(TORTURE_SEED))

.PHONY: crash-ray
crash-ray: install-dev  ## kill -9 of coordinator, account actor and replica at every named point, on one Ray cluster; writes docs/crash-matrix-ray.md
	@$(PY) -m tests.torture.crash_ray --page docs/crash-matrix-ray.md

lock: install  ## recompute the lock files (versions and hashes, no addresses)
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --extra embedded pyproject.toml requirements-build.in -o requirements.lock
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --extra embedded --group dev -c requirements.lock pyproject.toml requirements-build.in -o requirements-dev.lock

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache build dist
