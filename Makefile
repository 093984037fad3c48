# Two commands do everything on a machine with Python 3.10 or later, pip and make (and, for the fast kernels, a C compiler):
#   make demo    installs lwgraph into .venv and optimizes the embedded model
#   make test    installs the test extra as well and runs the whole suite
# The install is editable; it is repeated only when what it depends on changes, so a second run starts at once.

PYTHON ?= python3
VENV ?= .venv
# Extras that `make test` installs; `make test EXTRAS=test,torch` also runs the tests that need PyTorch; `openvino` those of OpenVINO.
EXTRAS ?= test
PYTEST_FLAGS ?= -n 2 --dist loadgroup

BIN := $(VENV)/bin
comma := ,
PACKAGING := pyproject.toml setup.py $(wildcard lwgraph/runtime/*.c lwgraph/runtime/*.h)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TESTS_READY := $(VENV)/ready.$(subst $(comma),-,$(EXTRAS))
LINT_READY := $(if $(findstring dev,$(EXTRAS)),$(TESTS_READY),$(VENV)/ready.dev)

# A cell of the matrix is a Python and the lowest or the newest dependencies: one where both are given, else all four.
MATRIX := $(if $(DEPENDENCIES),matrix-$(PYTHON)-$(DEPENDENCIES),\
    matrix-3.10-lowest matrix-3.10-newest matrix-3.13-lowest matrix-3.13-newest)
RESOLUTION_lowest := lowest-direct
RESOLUTION_newest := highest
UV := $(VENV)/uv/bin/uv
CELL = $(VENV)/$@

.PHONY: help demo test lint docs sanitize nightly matrix wheel clean

help:
	@echo "make demo   optimize the embedded model and print the before/after table"
	@echo "make test   run the whole test suite          (PYTEST_FLAGS='-n 2 --dist loadgroup' by default)"
	@echo "make lint   run ruff (formatter and linter) and mypy"
	@echo "make docs   build the documentation as a site in build/site"
	@echo "make sanitize  run the C kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make nightly  run generated networks for ten minutes, other ones each day"
	@echo "make matrix  run the suite on Python 3.10 and 3.13 with the lowest and the newest dependencies"
	@echo "             (one cell: make matrix PYTHON=3.10 DEPENDENCIES=lowest)"
	@echo "make wheel  build the wheel, and run the demo from it in a clean environment that has no compiler"
	@echo "make clean  remove .venv and everything built"

demo: $(VENV)/ready
	$(BIN)/lwgraph demo

# Each process of the tests does linear algebra in one thread: threads that outnumber the cores wait for each other.
test: $(TESTS_READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(LINT_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/ready.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

sanitize: $(TESTS_READY)
	$(BIN)/python -m benchmarks.runtime_sanitize

nightly: $(TESTS_READY)
	$(BIN)/python -m benchmarks generated --minutes 10 --seed $$(( $$(date +%j) * 100000 )) --count 100000

matrix: $(MATRIX)

# Releases come as wheels only: the lowest are those that a Python can install without building them.
matrix-%: $(UV)
	$(UV) venv --quiet --clear --seed --python $(word 2,$(subst -, ,$@)) $(CELL)
	$(UV) pip compile --quiet --only-binary :all: --no-annotate --no-header --extra test \
	    --resolution $(RESOLUTION_$(word 3,$(subst -, ,$@))) --python $(CELL)/bin/python pyproject.toml \
	    --output-file $(CELL)/requirements.txt
	$(UV) pip install --quiet --python $(CELL)/bin/python --requirement $(CELL)/requirements.txt
	$(UV) pip install --quiet --python $(CELL)/bin/python --no-deps --editable .
	$(CELL)/bin/python -m pytest $(PYTEST_FLAGS)

# `env -i`: nothing of this environment helps, and there is neither a compiler nor the checkout.
wheel: $(BIN)/python
	rm -rf build/wheel
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --disable-pip-version-check install --quiet build/wheel/*.whl
	cd build/wheel && env -i HOME="$$PWD" PATH="$$PWD/venv/bin" CC=false python -c 'import lwgraph.runtime._kernels'
	cd build/wheel && env -i HOME="$$PWD" PATH="$$PWD/venv/bin" CC=false lwgraph demo --preset lossless

$(UV):
	python3 -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip --disable-pip-version-check install --quiet uv

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
