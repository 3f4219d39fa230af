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

SEED ?= 0
soak:  ## for hours, alone on the machine; N=1000 SEED=7 for other numbers of trials, processes killed and inputs
	$(PYTHON) tests/faults/soak.py --seed $(SEED) $(if $(N),--n $(N))
	$(PYTHON) tests/faults/soak_ranks.py --seed $(SEED) --n $(or $(N),50)
	$(PYTHON) tests/fuzz/soak.py --kind all --seed $(SEED) --n $(or $(N),100000)

pictures:  ## those of the README; needs the extra "plot"
	rm -f docs/pictures/efficientnet-b0.svg docs/pictures/scaling.svg docs/pictures/accuracy.svg  # not overwritten
	build-arch efficientnet-b0 --diagram docs/pictures/efficientnet-b0.svg
	scale-arch efficientnet-b0 --fit activations=20M --plot docs/pictures/scaling.svg
	build-arch --list --diagram docs/pictures/accuracy.svg

docs:  ## the JSON Schemas and docs/spec.md, from the models
	$(PYTHON) docs/generate.py

benchmarks:
	$(PYTHON) benchmarks/summary.py
	$(PYTHON) benchmarks/hostile.py
