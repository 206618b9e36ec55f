# One environment in .venv, made once and again when pyproject.toml changes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test check dist manifests format clean
.DEFAULT_GOAL := demo

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

install: .venv/installed  ## uadray in .venv

demo: .venv/installed  ## the whole job on slides it makes itself
	$(BIN)/uadray demo --out demo

# Tests that start Ray have the machine for themselves; the others run two at a time.
ALONE := ray

test: .venv/installed  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not ($(ALONE))"; others=$$?; \
	$(BIN)/pytest -m "$(ALONE)" && exit $$others

check: .venv/installed  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dist: .venv/installed  ## sdist and wheel, each built in an environment of its own, and the versions of what they need
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/pip list --format=freeze --exclude-editable | grep -v '^uadray==' | sed 's/+.*//' > dist/constraints.txt

manifests: .venv/installed  ## deploy/kuberay/*.yaml, from the chart
	$(BIN)/python deploy/kuberay/render.py

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo build dist .mypy_cache .ruff_cache .pytest_cache *.egg-info
