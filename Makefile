PYTHON := .venv/bin/python

.PHONY: install check lint test benchmarks

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

benchmarks:
	$(PYTHON) benchmarks/summary.py
	$(PYTHON) benchmarks/hostile.py
