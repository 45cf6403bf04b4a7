# Each target works on a fresh machine with Python and make alone: it makes .venv, installs, and runs.
PYTHON ?= python3
BIN := .venv/bin
# What `make test` adds: the share of lines that the tests reach. Counting them costs about a third of the time before
# Python 3.12, hardly any from then on. `make test COVERAGE=` does without.
COVERAGE ?= --cov --cov-report=

.PHONY: demo test test-oldest test-package lint bench docs gallery clean

demo: .venv/installed
	$(BIN)/python recipes/tomography.py --output results

# One process per core with one thread each: on small problems threads that wait for each other cost several times more.
test: .venv/installed-test
	OMP_NUM_THREADS=1 COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
		$(BIN)/python -m pytest -n logical $(COVERAGE)

# The oldest releases that pyproject.toml declares, in an environment of their own: make test-oldest PYTHON=python3.10
test-oldest: build/oldest/installed
	OMP_NUM_THREADS=1 build/oldest/bin/python -m pytest -n logical

# Builds the wheel and the sdist, and tries what they install outside the checkout: minutes.
test-package: .venv/installed-test
	$(BIN)/python -m pytest -m "slow or not slow" tests/project/test_package.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed-dev
	$(BIN)/python benchmarks/run_all.py

# Pages in build/docs, warnings are errors; nothing is run, nothing is fetched.
docs: .venv/installed-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -n -W --keep-going -q docs build/docs

# Runs the recipes whose figures docs/results.md does not have: minutes.
gallery: .venv/installed
	$(BIN)/python docs/gallery/draw.py
	$(BIN)/python docs/gallery/overview.py

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

.venv/installed-docs: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@ .venv/installed

build/oldest/installed: pyproject.toml tests/project/oldest.txt
	$(PYTHON) -m venv --clear build/oldest
	build/oldest/bin/python -m pip install --quiet -c tests/project/oldest.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv results build dist
