# Targets are listed by `make` or `make help`.
#   VENV=path     the virtual environment (.venv), created when missing
#   PYTHON=name   the interpreter that creates it (python3)
#   WORKERS=n     evaluation slots of `make search` (2)
#   PROCESSES=n   processes that share the tests (2); 0 runs them in one that a debugger can stop
#   ARGS="..."    further options for `evonas search` or pytest
#   PIP_ARGS=...  further options for pip, for instance an index with CPU builds of torch

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.evonas-installed
TYPED := build/typed
FAST := not slow and not gpu
# Tests of one file mostly stay together, so that its fixtures are made once; who has nothing left takes over some.
SHARED = -n $(PROCESSES) --dist worksteal
# Absolute, because one recipe changes its folder.
ROOT := $(CURDIR)
ABSBIN = $(abspath $(BIN))
# One thread per process: the tests and the slots bring their own parallelism.
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup search test test-all lint typecheck fmt bench bench-kernels numbers clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv and install evonas into it, editable, with the tools for development

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.10" >&2; \
	  echo "  -> make setup PYTHON=python3.12" >&2; exit 4; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot create a virtual environment" >&2; \
	  echo "  -> sudo apt-get install python3-venv" >&2; exit 4; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e ".[dev]"
	@touch $@

search: $(STAMP) ## Search norm_act on the embedded images: 2 cores, at most 12 minutes
	$(BIN)/evonas search --space norm_act --config examples/search.toml --workers $(WORKERS) $(ARGS)

test: lint typecheck ## Lint, types and the fast tests: 2 cores, at most 15 minutes
	$(THREADS) $(BIN)/python -m pytest $(SHARED) -m "$(FAST)" $(ARGS)

test-all: lint typecheck ## The same with the slow tests
	$(THREADS) $(BIN)/python -m pytest $(SHARED) -m "not gpu" $(ARGS)

lint: $(STAMP) ## Style: ruff check and ruff format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP) ## Types: mypy on the package as it is installed, not on the source folders
	@rm -rf build && mkdir -p $(TYPED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(TYPED) .
	cd $(TYPED) && $(ABSBIN)/mypy --config-file $(ROOT)/pyproject.toml --cache-dir $(ROOT)/.mypy_cache -p evonas
	@rm -rf build

fmt: $(STAMP) ## Repair style in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure: search loop, log and workers, into benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e ".[bench]"
	@mkdir -p benchmarks/results
	@status=0; for name in search_loop log workers many_workers; do \
	  echo "benchmarks/$$name.py" >&2; \
	  $(THREADS) $(BIN)/python benchmarks/$$name.py --json > benchmarks/results/$$name.json.part || status=1; \
	  mv benchmarks/results/$$name.json.part benchmarks/results/$$name.json; \
	done; exit $$status

# Each of these takes minutes; the first four are counts and do not depend on the machine.
KERNEL_BENCHMARKS := inductor_traffic inductor_nested kernel_traffic nested_layers "kernel_budget --random 20 100" \
  compile_pool kernel_fuzz candidate_batches c_backend linear_attention

bench-kernels: $(STAMP) ## Measure without a GPU: bytes, instructions, compile times, generated C
	@mkdir -p benchmarks/results
	@status=0; for call in $(KERNEL_BENCHMARKS); do set -- $$call; name=$$1; shift; \
	  echo "benchmarks/$$name.py $$*" >&2; \
	  $(THREADS) $(BIN)/python benchmarks/$$name.py "$$@" --json > benchmarks/results/$$name.json.part \
	    && mv benchmarks/results/$$name.json.part benchmarks/results/$$name.json || status=1; \
	done; exit $$status

numbers: $(STAMP) ## Write the measured numbers into README.md and docs/
	$(BIN)/python scripts/readme_numbers.py --write

clean: ## Remove what the build and the tools left behind, not .venv and not runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
