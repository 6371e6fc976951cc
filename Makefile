# `make demo` and `make test` work on a bare machine with Python 3.11 or later, pip, git and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test test-all lint bench faults formats fuzz clean

demo: .venv/.demo
	$(BIN)/crossmorph demo

test: .venv/.test
	$(BIN)/python -m pytest

test-all: .venv/.bench
	$(BIN)/python -m pytest -m "slow or not slow"

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.bench
	$(BIN)/python benchmarks/register.py

# Every image format beside nibabel and SimpleITK; kills, full disks, two writers; damaged files: docs/robustness.md.
formats: .venv/.test
	$(BIN)/python benchmarks/formats.py

faults: .venv/.test
	$(BIN)/python benchmarks/faults.py

fuzz: .venv/.test
	$(BIN)/python benchmarks/fuzz.py

clean:
	rm -rf .venv demo

# Each level of installation adds to the one before; a stamp remembers it until the requirements change.
.venv/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing crossmorph and what it needs into .venv (a few minutes the first time)"
	$(PIP) torch
	$(PIP) -e '.[report,simulate]'
	touch $@

.venv/.test: .venv/.demo
	$(PIP) -e '.[test]'
	touch $@

# The peers weigh 2 GB, napari with Qt and VTK 500 MB.
.venv/.bench: .venv/.test
	$(PIP) -e '.[baselines,napari,test]' vtk
	touch $@

.venv/.lint: .venv/.test
	$(PIP) -e '.[test,lint]'
	touch $@
