# The whole life of a checkout: every target does its own set-up. `make` alone lists them.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY := .venv/bin/python
VENV_STAMP := .venv/.installed
NODE_STAMP := node_modules/.installed

.PHONY: help install test test-long lint demo bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV_STAMP) $(NODE_STAMP) ## Make .venv (with the command keeper in it) and node_modules, only when something changed

$(VENV_STAMP): requirements-dev.lock pyproject.toml
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(NODE_STAMP): package.json package-lock.json
	@npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

lint: install ## ruff and mypy --strict
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

test: lint ## Lint, types and the default test suite
	@.venv/bin/pytest -n 2 --dist loadgroup

test-long: install ## The full-size randomised tests (tens of minutes)
	@.venv/bin/pytest -n 2 --dist loadgroup -m long --timeout 3600

demo: install ## The real daemon on a private chain with real Aave, Morpho and Uniswap bytecode
	@.venv/bin/keeper demo --comet-model tests/support/contracts/CometModel.sol

bench: install ## Timings beside a baseline measured in the same run
	@$(PY) -m benchmarks

lock: ## Resolve the locked versions anew
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install --quiet pip-tools
	@.venv/bin/pip-compile -q --upgrade --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate -o requirements.lock pyproject.toml
	@.venv/bin/pip-compile -q --upgrade --extra dev --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## Remove what install and the tests made (not the user's journal or cache)
	@rm -rf .venv node_modules build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
