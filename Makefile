# Every target works from a bare clone. The environment is .venv; stamps in it say what is installed, so nothing is installed twice.
#   make demo PYTHON=python3.12    another interpreter        make test PYTEST_ARGS="-k demo"    some of the tests
#   make bench QUICK=1 JSON=x.json a short run, as JSON too   CXX=clang++ make setup             another compiler
#   make test EXTRAS=gpu           the GPU kernels as well: triton is 285 MB; no GPU is needed

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Folders stand in the list as well: a file that was removed changes the date of its folder.
SOURCES := pyproject.toml CMakeLists.txt $(shell find src native -name __pycache__ -prune -o -print)

.PHONY: help setup demo test bench lint golden sizes instructions sanitize faults race clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    compress a small network's feature maps four ways and write demo-report.html"
	@echo "make test    run the tests on the installed package"
	@echo "make setup   only install: .venv/bin/tensorpress works afterwards"
	@echo "make bench   measure speed and memory beside others (QUICK=1: within 5 minutes; JSON=FILE: write rows, facts, a page)"
	@echo "make lint    ruff and mypy"
	@echo "make golden  write the golden streams anew (their difference is to be reviewed)"
	@echo "make sizes   write benchmarks/sizes.csv anew (its difference is to be reviewed)"
	@echo "make instructions  write benchmarks/instructions.csv anew: callgrind's counts (likewise)"
	@echo "make sanitize  native code under AddressSanitizer and UBSan: tests and damaged payloads (QUICK=1: some of them)"
	@echo "make faults  writers killed at random moments, full disks, many writers (KILLS=200, SEED=1, QUICK=1)"
	@echo "make race    native code under ThreadSanitizer: 16 threads on shared codecs (QUICK=1: one instruction set)"
	@echo "make clean   remove .venv, the build and caches"

setup: .venv/.with-demo
	@echo "TensorPress is ready: $(BIN)/tensorpress --help"

demo: .venv/.with-demo
	@$(BIN)/tensorpress demo

test: .venv/.with-test $(EXTRAS:%=.venv/.with-%)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

bench: .venv/.with-demo .venv/.with-peers .venv/.with-zfp
	@$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

lint: .venv/.with-lint
	@$(BIN)/ruff check .
	@$(BIN)/mypy

golden: .venv/.with-test
	@$(BIN)/python tests/golden/make.py

sizes: .venv/.with-test
	@$(BIN)/python -m benchmarks.sizes

instructions: .venv/.with-test
	@$(BIN)/python -m benchmarks.instructions

sanitize: .venv/.with-test
	@$(BIN)/python scripts/sanitize.py $(if $(QUICK),--quick)

faults: .venv/.with-test
	@$(BIN)/python scripts/faults.py $(if $(QUICK),--quick) $(KILLS:%=--kills %) $(SEED:%=--seed %)

race: .venv/.with-test
	@$(BIN)/python scripts/race.py $(if $(QUICK),--quick) $(ROUNDS:%=--rounds %)

clean:
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +

.venv/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "TensorPress needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Choose another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "TensorPress needs $(PYTHON) with venv and pip (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@for compiler in "$${CXX:-c++}" g++ clang++; do command -v $${compiler%% *} >/dev/null && exit 0; done; \
	  echo "TensorPress needs a C++20 compiler such as g++ 11 or clang++ 14 (Debian and Ubuntu: apt-get install g++)" >&2; exit 1
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { \
	  echo "TensorPress needs the C headers of $(PYTHON) (Debian and Ubuntu: apt-get install python3-dev)" >&2; exit 1; }
	@echo "TensorPress: making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.wheel: .venv/.ready $(SOURCES)
	@echo "TensorPress: compiling the package (about a minute)"
	@rm -rf .venv/wheel
	@$(PIP) wheel -q --no-deps -w .venv/wheel .
	@touch $@

# The wheel is compiled once and installed with one extra after another; only the first time does pip have much to fetch and to say.
.venv/.with-%: .venv/.wheel
	@$(PIP) uninstall -q -y tensorpress 2>/dev/null || true
	@if ls .venv/.with-* >/dev/null 2>&1; then \
	  echo "TensorPress: installing the package with its extra '$*'"; quiet=-q; \
	else echo "TensorPress: installing the package and what it needs (PyTorch is large: this may take some minutes)"; fi; \
	$(PIP) install $$quiet "$$(ls ./.venv/wheel/*.whl)[$*]"
	@touch $@
