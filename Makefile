# Each target works on a fresh machine with Python and make alone: it makes .venv, installs, and runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/python recipes/tomography.py --output results

# A process a core with one thread each: on small problems threads that wait for each other cost several times more.
test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python benchmarks/run_all.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@ .venv/installed

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@ .venv/installed .venv/installed-test

clean:
	rm -rf .venv results build dist
