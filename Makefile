# Every target builds the environments it needs: .venv (ours) and .runtime (Triton's own, with numpy 1.26).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter of a supported version that really starts (pyenv's shims exist for versions that do not).
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 \
	&& echo $$p && break; done)
BIN := .venv/bin
export SALF_RUNTIME := $(CURDIR)/.runtime
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint train bench lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: .venv/.base-installed .runtime/.installed  ## explain pictures with the real Triton; writes demo_output/
	$(BIN)/python -m demonstration

test: lint .runtime/.installed  ## run the whole test suite
	$(BIN)/python -m pytest

lint: .venv/.dev-installed  ## ruff, strict typing, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

train: .venv/.dev-installed  ## retrain the demonstration model and replace it in model_repository/
	$(BIN)/python -m demonstration.retrain

bench: .venv/.dev-installed .runtime/.installed  ## run every benchmark; writes bench_output/
	$(BIN)/python -m benchmarks all --out bench_output

clean:  ## remove environments and outputs
	rm -rf .venv .runtime demo_output bench_output runs

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "salf needs Python 3.11 or 3.12 with venv; install one or pass PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.base-installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[plot,serve]' 2> >(grep -v 'neither a file nor a directory' >&2)
	touch $@

.venv/.dev-installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]' 2> >(grep -v 'neither a file nor a directory' >&2)
	touch $@ .venv/.base-installed

.runtime/.installed: pyproject.toml | .venv/.base-installed
	$(BIN)/salf serve --install
	touch $@

lock: .venv/.dev-installed  ## pin what the images install, with hashes, from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --extra serve pyproject.toml --output-file deploy/requirements-serve.txt
	$(BIN)/python -c "from salf_serving.runtime import runtime_pins; print(*runtime_pins(), sep='\n')" \
		| $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --no-deps - --output-file deploy/requirements-runtime.txt
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], 'wheel', sep='\n')" \
		| $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header - --output-file deploy/requirements-build.txt
