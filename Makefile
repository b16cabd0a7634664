# make train, make test: everything from a fresh clone. Nothing is installed outside .venv.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help train test lint docs tensorboard clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

train: .venv/installed ## set up the environment and train the default configuration (a few minutes on two CPU cores)
	$(BIN)/python train.py

test: .venv/installed-dev ## set up the environment and run the tests (about six minutes on two CPU cores)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: .venv/installed-dev ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/installed ## rewrite the tables in docs/ that follow from the code
	$(BIN)/python -m docs.write_tables

tensorboard: .venv/installed ## show all runs at http://localhost:6006
	$(BIN)/tensorboard --logdir runs

clean: ## remove the environment and caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements-data.txt .venv/installed
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -r requirements-dev.txt
	@touch $@
