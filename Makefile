# Every target makes .venv and installs what it needs when that is missing or stale.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.installed-docs

.PHONY: demo test test-fast test-long test-processors check docs bench clean

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/skilloc demo --out runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not long"

# All tests, those marked long too, and other random examples each time.
test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" --hypothesis-profile default

# Without and with AVX2, and with the best that this processor has: each rounds in its own way.
test-processors: $(STAMP)
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/python -m pytest
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings are errors. What only the pages need is installed when they are first made.
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -W -q docs docs/_build/html

bench: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o addopts="--import-mode=importlib -s" -m "not long" tests/benchmarks

# torch first, and pinned: an unpinned torch brings gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $(DOCS_STAMP)

clean:
	rm -rf .venv runs docs/_build docs/api
