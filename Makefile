# make demo and make test set everything up by themselves: a virtual environment in .venv, exact versions.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test check docs bench bench-speed lock clean

help:  ## what one can make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.ready  ## the main job on real text, with the embedded model; writes ./demo
	rm -rf demo
	$(BIN)/lasttoken demo --out demo

test: .venv/.ready  ## all tests: offline, no GPU
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

check: .venv/.ready  ## lint, format, types, and that what is generated is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/test_architecture.py src/lasttoken
	$(BIN)/python tools/reference.py --check

docs: .venv/.ready  ## write the generated pages of docs/reference and the result tables
	$(BIN)/python tools/reference.py

bench: .venv/.ready  ## the quality benchmarks whose results are missing (hours; needs ../shared/data)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python bench/quality/run.py --data ../shared/data

bench-speed: .venv/.ready  ## the speed benchmarks whose results are missing (hours; an idle machine and ../shared/data)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python bench/speed/run.py --data ../shared/data

lock: .venv/.ready  ## write constraints.txt from what .venv holds
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//; 1i # Exact versions of everything that is installed for tests and the demo. `make lock` writes this file.' > constraints.txt

clean:  ## remove .venv and what the demo wrote
	rm -rf .venv demo
