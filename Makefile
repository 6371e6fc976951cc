# `make demo` and `make test` work on a bare machine with Python 3.11 or later, pip, git and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test test-all lint bench bench-real faults formats fuzz site notebook browser clean

demo: .venv/.demo
	$(BIN)/crossmorph demo

test: .venv/.test
	$(BIN)/python -m pytest

test-all: .venv/.bench .venv/.docs
	$(BIN)/python -m pytest -m "slow or not slow"

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.bench
	$(BIN)/python benchmarks/register.py

# Sets of people of benchmarks/people_sets.py: make bench-real DATA=FOLDER.
bench-real: .venv/.bench
	$(BIN)/python benchmarks/people.py $(DATA)

# Every image format beside nibabel and SimpleITK; kills, full disks, two writers; damaged files: docs/robustness.md.
formats: .venv/.test
	$(BIN)/python benchmarks/formats.py

faults: .venv/.test
	$(BIN)/python benchmarks/faults.py

fuzz: .venv/.test
	$(BIN)/python benchmarks/fuzz.py

# The documentation site, in site/.
site: .venv/.docs
	$(BIN)/python -m mkdocs build

notebook: .venv/.docs
	$(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False docs/notebook.ipynb

# The page that registers two slices in a browser, with onnxruntime-web from npm: build/browser.
ORT := node_modules/onnxruntime-web/dist
browser: .venv/.onnx
	cd integrations/browser && npm install --ignore-scripts --no-package-lock --no-audit --no-fund
	mkdir -p build/browser
	cd integrations/browser && cp index.html *.js $(ORT)/ort.wasm.min.mjs $(ORT)/ort-wasm-simd-threaded.mjs \
		$(ORT)/ort-wasm-simd-threaded.wasm ../../build/browser
	$(BIN)/crossmorph models onnx any-2d -o build/browser/model.onnx
	@echo "built build/browser; to open it: python3 -m http.server -d build/browser, http://localhost:8000"

clean:
	rm -rf .venv demo site build/browser

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
	$(PIP) -e '.[baselines,napari,onnx,test]' vtk
	touch $@

.venv/.onnx: .venv/.demo
	$(PIP) -e '.[onnx]'
	touch $@

# What builds the site, the wheel and the notebook.
.venv/.docs: .venv/.test
	$(PIP) -e '.[docs,release,test]'
	touch $@

.venv/.lint: .venv/.test
	$(PIP) -e '.[test,lint]'
	touch $@
