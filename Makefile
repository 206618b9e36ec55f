# One environment in .venv, made once and again when pyproject.toml changes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test check format clean
.DEFAULT_GOAL := demo

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

install: .venv/installed  ## uadray in .venv

demo: .venv/installed  ## the whole job on slides it makes itself
	$(BIN)/uadray demo --out demo

test: .venv/installed  ## all tests
	$(BIN)/pytest

check: .venv/installed  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache *.egg-info
