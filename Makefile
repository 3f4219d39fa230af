PYTHON := .venv/bin/python

.PHONY: install check lint test soak docs pictures benchmarks

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

soak:  ## for an hour or two, alone on the machine; SOAK="--kind kills --n 1000 --seed 7" chooses, FUZZ="--kind specs --n 1000000"
	$(PYTHON) tests/faults/soak.py $(SOAK)
	$(PYTHON) tests/faults/soak_ranks.py --n 50 --seed 0
	$(PYTHON) tests/fuzz/soak.py $(or $(FUZZ),--kind all --n 100000)

pictures:  ## those of the README; needs the extra "plot"
	build-arch efficientnet-b0 --diagram docs/pictures/efficientnet-b0.svg
	scale-arch efficientnet-b0 --fit activations=20M --plot docs/pictures/scaling.svg
	build-arch --list --diagram docs/pictures/accuracy.svg

docs:  ## the JSON Schemas and docs/spec.md, from the models
	$(PYTHON) docs/generate.py

benchmarks:
	$(PYTHON) benchmarks/summary.py
	$(PYTHON) benchmarks/hostile.py
