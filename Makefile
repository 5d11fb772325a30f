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

.PHONY: $(shell grep -oE "^[a-z0-9-]+:.*\#\# " $(firstword $(MAKEFILE_LIST)) | cut -d: -f1)
.DELETE_ON_ERROR:

help: ## this list
	@sed -nE "s/^([a-z0-9-]+):.*## (.*)/make \1\t\2/p" $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: .venv/.with-demo ## only install: .venv/bin/tensorpress works afterwards
	@echo "TensorPress is ready: $(BIN)/tensorpress --help"

demo: .venv/.with-demo ## compress a small network's feature maps four ways and write demo-report.html
	@$(BIN)/tensorpress demo

test: .venv/.with-test $(EXTRAS:%=.venv/.with-%) ## run the tests on the installed package
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

bench: .venv/.with-demo .venv/.with-peers .venv/.with-zfp ## measure speed and memory beside others (QUICK=1: within 5 minutes; JSON=FILE: write rows, facts, a page)
	@$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

lint: .venv/.with-lint ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

golden: .venv/.with-test ## write golden files of new cases, and check that all others are as they were
	@$(BIN)/python -m tests.golden.make

sizes: .venv/.with-test ## write benchmarks/sizes.csv anew (its difference is to be reviewed)
	@$(BIN)/python -m benchmarks.sizes

instructions: .venv/.with-test ## write benchmarks/instructions.csv anew: callgrind's counts (likewise)
	@$(BIN)/python -m benchmarks.instructions

sanitize: .venv/.with-test ## native code under AddressSanitizer and UBSan: tests and damaged payloads (QUICK=1: some of them)
	@$(BIN)/python scripts/sanitize.py $(if $(QUICK),--quick)

faults: .venv/.with-test ## writers killed at random moments, full disks, many writers (KILLS=200, SEED=1, QUICK=1)
	@$(BIN)/python scripts/faults.py $(if $(QUICK),--quick) $(KILLS:%=--kills %) $(SEED:%=--seed %)

race: .venv/.with-test ## native code under ThreadSanitizer: 16 threads on shared codecs (ROUNDS=1; QUICK=1: one instruction set)
	@$(BIN)/python scripts/race.py $(if $(QUICK),--quick) $(ROUNDS:%=--rounds %)

integrity: .venv/.with-test ## every cut and flipped bit of every golden file, swapped and replayed sections, what recovery gives (EVERY=8: an eighth)
	@$(BIN)/python scripts/integrity.py --json results/reliability/integrity.json $(EVERY:%=--every %)

decoders: .venv/.with-test .venv/.with-peers .venv/.with-zfp ## damaged streams through both decoders: results/reliability/decoders.json (STREAMS=10000 of each codec, SEED=1)
	@$(BIN)/python scripts/decoders.py $(STREAMS:%=--streams %) $(SEED:%=--seed %)

memcheck: .venv/.with-test ## native code under valgrind's memcheck: tests of kernels, two hours (QUICK=1: golden streams alone)
	@$(BIN)/python scripts/memcheck.py $(if $(QUICK),--quick)

dist: .venv/.with-release ## build sdist and wheel of the last commit into dist/, dated by it
	@$(BIN)/python scripts/reproducible.py --dist

reproducible: .venv/.with-release ## build them twice under different conditions and compare the bytes
	@$(BIN)/python scripts/reproducible.py

sbom: .venv/.with-release ## the bill of materials of an installed package, CycloneDX JSON, into dist/; prints all licences
	@$(BIN)/python scripts/sbom.py

properties: .venv/.with-test ## every property on up to 20,000 random examples: results/reliability/properties.json (CASES=, SECONDS= of processor time each, SEED=)
	@$(BIN)/python scripts/properties.py $(if $(CASES),--cases $(CASES)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

fuzz: .venv/.with-test .venv/.with-fuzz ## every decoder under libFuzzer, what Python reads under atheris (QUICK=1: 3 seconds each; RUNS=…; ONLY=target)
	@$(BIN)/python scripts/fuzz.py $(if $(QUICK),--quick) $(RUNS:%=--runs %) $(ONLY:%=--only %)

aarch64: .venv/.with-test ## the same bits on another processor: cross-compiled, run by qemu, compared with this machine (QUICK=1: digests alone)
	@$(BIN)/python scripts/another_machine.py $(if $(QUICK),--quick)

same-bits: .venv/.with-test ## instruction sets, threads, twins and float states give the same bits, as rows (QUICK=1: none are written)
	@$(BIN)/python scripts/same_bits.py $(if $(QUICK),--quick)

clean: ## remove .venv, the build and caches
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +

.venv/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "TensorPress needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Choose another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "TensorPress needs $(PYTHON) with venv and pip (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@for compiler in "$${CXX:-c++}" g++ clang++; do command -v $${compiler%% *} >/dev/null && exit 0; done; \
	  echo "TensorPress needs a C++20 compiler such as g++ 11 or clang++ 16 (Debian and Ubuntu: apt-get install g++)" >&2; exit 1
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
