PYTHON := .venv/bin/python

.PHONY: check lint test benchmarks

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
