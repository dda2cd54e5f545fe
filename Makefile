# Two commands for a fresh machine: `make demo` and `make test`. Both create .venv on first use.
# Python >= 3.11 and make are all that has to be there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CPU machine must not pull gigabytes of CUDA packages: without an NVIDIA GPU this exact build comes first.
TORCH := torch==2.13.0
HAS_GPU := $(shell (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU')
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-slow lint format types bench env clean help

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/python: 
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: forkpoint needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/torch: $(VENV)/python
	@if [ "$(HAS_GPU)" = "0" ]; then echo "installing $(TORCH) (no NVIDIA GPU found)"; $(PIP) install $(TORCH); fi
	@touch $@

$(VENV)/base: $(VENV)/torch pyproject.toml
	@echo "installing forkpoint"
	@$(PIP) install -e .
	@touch $@

$(VENV)/test: $(VENV)/base pyproject.toml
	@echo "installing the test dependencies"
	@$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/dev: $(VENV)/test pyproject.toml
	@echo "installing lint and types"
	@$(PIP) install -e '.[test,dev]'
	@touch $@

demo: $(VENV)/base  ## Train the shipped model on Countdown with forking tokens; writes runs/demo/report.html.
	$(BIN)/forkpoint train recipes/demo.toml --fresh

# One thread a process: tests start processes of their own, and spinning threads fight over the cores.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/test  ## Run the test suite.
	$(BIN)/python -m pytest -m "not slow"

test-slow: export OMP_NUM_THREADS ?= 1
test-slow: $(VENV)/test  ## Run the minutes-long ladders.
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/dev  ## Check style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev  ## Apply style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev  ## Check types.
	$(BIN)/mypy

# The heads of these two are read from their files; what else they depend on is not needed.
$(VENV)/bench: $(VENV)/test
	@echo "installing the peers of benchmarks/head.py"
	@$(PIP) install --no-deps liger-kernel==0.8.5 verl==0.9.1
	@touch $@

bench: export OMP_NUM_THREADS ?= 1
bench: $(VENV)/bench  ## Run the benchmarks this machine can run; prints tables, asserts nothing.
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/head.py
	$(BIN)/python benchmarks/update_step.py
	$(BIN)/python benchmarks/decoder.py
	$(BIN)/python benchmarks/engine_vs_trl.py
	$(BIN)/python benchmarks/method_cost.py
	$(BIN)/python benchmarks/trace_stats.py
	$(BIN)/python benchmarks/interval_coverage.py
	$(BIN)/python benchmarks/grading.py
	$(BIN)/python benchmarks/sandbox_throughput.py
	$(BIN)/python benchmarks/verifier_fuzz.py

clean:  ## Remove the environment and caches. Runs are kept.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
