PYTHON := .venv/bin/python

.PHONY: install check lint test docs benchmarks

install:
	python3 -m venv .venv
	$(PYTHON) -m pip install -q -e '.[dev]'

check: lint test  ## what CI runs

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

docs:  ## the JSON Schemas and docs/spec.md, from the models
	$(PYTHON) docs/generate.py

benchmarks:
	$(PYTHON) benchmarks/summary.py
	$(PYTHON) benchmarks/hostile.py
