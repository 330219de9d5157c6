# Every target makes an environment and installs what it needs, when that is missing or stale.
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"   # or a version, torch==2.9.1, or a wheel
#   make demo VENV=path    # your environment; what it has, torch above all, is taken as it is
#   make test JOBS=4       # processes of the tests; 0: none but pytest's own
PYTHON ?= python3
VENV ?= .venv
# What was asked for the last time holds until something else is.
TORCH ?= $(shell cat $(VENV)/.torch 2>/dev/null)
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
PINS := $(VENV)/.constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS)
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# The page is tested in one of these.
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome

.PHONY: demo test test-fast test-long test-processors browser check docs bench clean again

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/skilloc demo --out runs/demo

test: $(STAMP) browser
	$(TESTS)

test-fast: $(STAMP)
	$(TESTS) -m "not slow and not long"

# All tests, those marked long too, and other random examples each time.
test-long: $(STAMP) browser
	$(TESTS) -m "" --hypothesis-profile default

# Without and with AVX2, and with the best that this processor has: each rounds in its own way.
test-processors: $(STAMP)
	ATEN_CPU_CAPABILITY=default $(TESTS)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(TESTS)
	$(TESTS)

# Where there is none, it is installed from Debian's packages if that is allowed. Elsewhere the tests of the page are
# skipped, and say so; in CI they fail.
browser:
	@for one in $(BROWSERS); do if command -v $$one > /dev/null; then exit 0; fi; done; \
	if test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	fi || echo "chromium could not be installed: the page is not tested in a browser"

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

# The tested versions for an environment that is made here; somebody's own keeps what it has. torch comes first and is
# then pinned to what is there, so that nothing that follows can put another one, with gigabytes of CUDA, over it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || { $(PYTHON) -m venv $(VENV) && touch $(VENV)/.ours; }
	if test $(VENV) = .venv -o -e $(VENV)/.ours; then grep -v '^torch==' constraints.txt; fi > $(PINS)
	if test -n "$(TORCH)"; then $(PIP) $(TORCH) && echo "$(TORCH)" > $(VENV)/.torch; \
	elif test $(VENV) = .venv -o -e $(VENV)/.ours || ! $(BIN)/python -m pip show --quiet torch; \
	then $(PIP) $$(grep '^torch==' constraints.txt); fi
	$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >> $(PINS)
	$(PIP) -e ".[dev]"
	touch $(STAMP)

# Another torch than the last time is installed at once.
ifneq ($(strip $(TORCH)),$(strip $(shell cat $(VENV)/.torch 2>/dev/null)))
$(STAMP): again
endif

$(DOCS_STAMP): $(STAMP)
	$(PIP) -e ".[docs]"
	touch $(DOCS_STAMP)

# Never $(VENV), which may be somebody's.
clean:
	rm -rf .venv runs docs/_build docs/api
