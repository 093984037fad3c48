# Two commands do everything on a machine with Python 3.10 or later, pip and make (and, for the fast kernels, a C compiler):
#   make demo    installs lwgraph into .venv and optimizes the embedded model
#   make test    installs the test extra as well and runs the whole suite
# The install is editable; it is repeated only when what it depends on changes, so a second run starts at once.

PYTHON ?= python3
VENV ?= .venv
# Extras that `make test` installs; `make test EXTRAS=test,torch` also runs the tests that need PyTorch.
EXTRAS ?= test
PYTEST_FLAGS ?= -n 2 --dist loadgroup

BIN := $(VENV)/bin
comma := ,
PACKAGING := pyproject.toml setup.py $(wildcard lwgraph/runtime/*.c lwgraph/runtime/*.h)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TESTS_READY := $(VENV)/ready.$(subst $(comma),-,$(EXTRAS))
LINT_READY := $(if $(findstring dev,$(EXTRAS)),$(TESTS_READY),$(VENV)/ready.dev)

.PHONY: help demo test lint sanitize nightly clean

help:
	@echo "make demo   optimize the embedded model and print the before/after table"
	@echo "make test   run the whole test suite          (PYTEST_FLAGS='-n 2 --dist loadgroup' by default)"
	@echo "make lint   run ruff (formatter and linter) and mypy"
	@echo "make sanitize  run the C kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make nightly  run generated networks for ten minutes, other ones each day"
	@echo "make clean  remove .venv and everything built"

demo: $(VENV)/ready
	$(BIN)/lwgraph demo

test: $(TESTS_READY)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(LINT_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize: $(TESTS_READY)
	$(BIN)/python -m benchmarks.runtime_sanitize

nightly: $(TESTS_READY)
	$(BIN)/python -m benchmarks generated --minutes 10 --seed $$(( $$(date +%j) * 100000 )) --count 100000

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lwgraph -name '*.so' -delete

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else \
	    f"lwgraph needs Python 3.10 or later, $(PYTHON) is {sys.version.split()[0]}; run: make PYTHON=/path/to/python3.10")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: $(BIN)/python $(PACKAGING)
	$(PIP) --editable .
	@touch $@

$(VENV)/ready.%: $(BIN)/python $(PACKAGING)
	$(PIP) --editable '.[$(subst -,$(comma),$*)]'
	@touch $@
