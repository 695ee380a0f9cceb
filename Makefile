# SPDX-License-Identifier: Apache-2.0
# Every target makes .venv where there is none and installs the project into it when its sources changed. What is tested, checked
# and demonstrated is the installed package, not the checkout. `make demo PYTHON=/path/to/python3` chooses the interpreter.

SHELL := /bin/bash
PYTHON ?= $(shell .ci/find-python)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Each has its py.typed; the namespace around them cannot have one, so mypy is told their names.
CODE := ipc runtime workers clients
FOLDERS := $(CODE) model_repository conf
# Directories are listed too: a file that was deleted changes nothing but its directory.
SOURCES := $(shell find $(FOLDERS) -not -path '*/__pycache__*' -not -name '* *')
DEPENDENCIES := $(VENV)/.dependencies-installed
INSTALLED := $(VENV)/.project-installed
TORCH := $(VENV)/.torch-installed
ANALYZER := bench/cache/peers/analyzer/started

.PHONY: help demo test check docs bench peers gateway-bench gpu-check mutants clean
help:
	@echo "make demo     serve the sample models, classify real digits, print what happened"
	@echo "make test     every test (those that need a GPU are skipped with a reason where there is none)"
	@echo "make check    ruff, formatting, mypy --strict, the layer rules"
	@echo "make docs     the tables in docs/ and conf/penstock.toml, from the code"
	@echo "make bench    the numbers of bench/README.md, on this machine"
	@echo "make peers    Penstock beside Triton and mosec, which it downloads into bench/cache; see bench/peers/README.md"
	@echo "make gateway-bench perf_analyzer on the gateway, beside the local link and Triton, and HTTP servers beside each other"
	@echo "make gpu-check the tests and the numbers that need a GPU, with PYTHON's packages as they are; see docs/gpu.md"
	@echo "make mutants  the tests against faults put into the code on purpose"
	@echo "make clean    remove .venv, build outputs and caches"

demo: $(INSTALLED)
	$(BIN)/penstock demo

test: $(INSTALLED) $(TORCH) $(ANALYZER)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(CODE:%=-p penstock.%)
	$(BIN)/python -m pytest tests/unit/test_layers.py

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

bench: $(INSTALLED)
	$(BIN)/python bench/overhead.py --json bench/cache/overhead.json
	$(BIN)/python bench/real_model.py --json bench/cache/real_model.json
	$(BIN)/python bench/table.py bench/cache/overhead.json bench/cache/real_model.json

# A peer that cannot be had here is named by the first two, and the table has what there is. PEERS: options of run.py.
peers: $(INSTALLED)
	-$(BIN)/python bench/peers/build.py
	-$(BIN)/python bench/peers/run.py --json bench/cache/peers/results.json $(PEERS)
	$(BIN)/python bench/peers/table.py bench/cache/peers/results.json --all

# Triton is in it where `make peers` has built it, and an HTTP server where it is installed.
gateway-bench: $(INSTALLED) $(ANALYZER)
	-$(BIN)/python bench/gateway.py --json bench/cache/gateway.json
	$(BIN)/python bench/http_servers.py --json bench/cache/http_servers.json

# Installs nothing and uses no .venv: a machine with a GPU has its packages, and perhaps no network.
gpu-check:
	@"$(if $(filter file,$(origin PYTHON)),python3,$(PYTHON))" bench/gpu_check.py $(if $(WHEELS),--wheels "$(WHEELS)") $(if $(RESULTS),--results "$(RESULTS)")

mutants: $(INSTALLED) $(TORCH) $(ANALYZER)
	$(BIN)/python tests/mutants/run.py

clean:
	rm -rf $(VENV) build dist bench/cache .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@.ci/find-python "$(PYTHON)" >/dev/null
	"$(PYTHON)" -m venv $(VENV)

# build/ goes first each time: pip builds in the checkout, and what an earlier build left there would be packed again.
$(DEPENDENCIES): pyproject.toml setup.py | $(BIN)/python
	@echo "installing Penstock and what it needs into $(VENV)"
	@rm -rf build
	@$(PIP) install --upgrade pip "setuptools>=77"
	@$(PIP) install '.[dev]'
	@touch $@

# For tests alone, and large: the extra `torch`, without CUDA where the package index has such a build (.ci/torch-requirement). Where
# it cannot be installed, the tests that need it are skipped and say so, and the next `make test` tries again.
$(TORCH): $(DEPENDENCIES) .ci/torch-requirement
	@requirement=$$(.ci/torch-requirement $(BIN)/python); echo "installing $$requirement for the tests"; \
	if $(PIP) install "$$requirement" "torch>=2.4"; then touch $@; \
	else echo "torch cannot be installed: the tests that need it will be skipped"; fi

# NVIDIA's load generator, for the tests that let it loose on the gateway; in an environment of its own. Where it cannot be had,
# they are skipped and say so, and the next `make test` tries again. A network that does not answer costs five minutes at most.
$(ANALYZER): $(DEPENDENCIES) bench/peers/analyzer.py
	@timeout 300 $(BIN)/python bench/peers/analyzer.py || echo "the tests that need perf_analyzer will be skipped"

$(INSTALLED): $(DEPENDENCIES) $(SOURCES)
	@rm -rf build
	@$(PIP) install --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build
	@touch $@
