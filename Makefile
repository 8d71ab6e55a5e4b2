# Everything runs from .venv, which the first target that needs it creates: with uv where
# there is one, else with pip, also where Python came without ensurepip (Debian and Ubuntu).
# Both take the versions and hashes of the lock; nothing is built but Genesis itself.

PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
LOCKED := install --require-hashes --only-binary :all: -r
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help install run stop status test lint bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# venv leaves a usable tree behind when ensurepip is missing; the second try completes it.
$(BIN)/python:
	@$(PY) -m venv $(VENV) >/dev/null 2>&1 || $(PY) -m venv --without-pip $(VENV)
	@$(PIP) --version >/dev/null 2>&1 || \
	  $(PY) -m pip --quiet --disable-pip-version-check --python $@ install pip

$(VENV)/.ok: pyproject.toml requirements.lock | $(BIN)/python
	@if [ -n "$(UV)" ]; then uv sync --quiet --frozen --no-dev --inexact; \
	else $(PIP) $(LOCKED) requirements.lock && $(PIP) install --no-deps -e .; fi
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.ok
	@if [ -n "$(UV)" ]; then uv sync --quiet --frozen; \
	else $(PIP) $(LOCKED) requirements-dev.lock; fi
	@touch $@

install: $(VENV)/.ok ## create .venv with all a node needs

run: $(VENV)/.ok ## start the mesh and show where its dashboard is
	@exec $(BIN)/genesis up

status: $(VENV)/.ok ## show the processes
	@exec $(BIN)/genesis ps

stop: $(VENV)/.ok ## stop the mesh
	@exec $(BIN)/genesis down

test: $(VENV)/.dev ## run the tests; make test ARGS="-k risk" for some
	@exec $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev ## check format, rules and types
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

bench: $(VENV)/.dev ## measure
	@exec $(BIN)/python -m bench

lock: ## renew the locks within the bounds of pyproject.toml (needs uv)
	@uv lock --upgrade
	@uv export --quiet --frozen --no-dev --no-emit-project -o requirements.lock
	@uv export --quiet --frozen --no-emit-project -o requirements-dev.lock

clean: ## remove what tools left behind, .venv included; state and logs stay
	@rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -r {} +
