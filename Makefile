# Every target does its own set-up: a bare machine needs only make and a python3 with pip.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# A uv that is on PATH but does not run (a pyenv shim) counts as missing.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
# Another version can be asked for: make test PYTHON=3.13
PYTHON := $(file < .python-version)
BIN := .venv/bin
PEERS := concord ggmlot glue harmony1 mofa scanorama scbiot velot
DATA := $(abspath $(wildcard ../shared/data))

.PHONY: help env demo test test-lowest test-newest lint audit docs browser bench build lock clean

help:
	@echo "make demo   integrate the demonstration data, write tables and pictures to demo/"
	@echo "make test   run all tests"
	@echo "make lint   ruff, mypy, imports, bandit    make docs   build the documentation"
	@echo "make browser  open the built pages in headless Chromium (fetches it)"
	@echo "make audit  known vulnerabilities of the locked packages (asks the network)"
	@echo "make bench  compare with other methods     make lock   renew requirements/*.txt"

env: .venv/.ready

demo: .venv/.ready
	$(BIN)/muport demo

# Real data are used where they lie beside the checkout; MUPORT_DATA= (empty) leaves those tests out.
test bench: export MUPORT_DATA ?= $(DATA)

# One thread a worker: two workers with two threads each would fight for the cores.
test: export OMP_NUM_THREADS ?= 1
test: .venv/.ready
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

# The lowest versions that pyproject.toml allows, and the newest of today with pre-releases.
test-lowest test-newest: export MUPORT_DATA ?= $(DATA)
test-lowest test-newest: export OMP_NUM_THREADS ?= 1
test-lowest test-newest: test-%: .venv-%/.ready
	.venv-$*/bin/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile -m "not slow" $(ARGS)

lint: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports --no-logo
	$(BIN)/bandit --quiet --recursive src
	$(BIN)/zizmor --quiet --offline .github

# Not a part of lint, which needs no network. The locked dependencies of a lock are all listed, so pip resolves nothing.
audit: .venv/.ready
	for lock in test docs bench uv; do \
		$(BIN)/pip-audit --disable-pip --require-hashes --requirement requirements/$$lock.txt; \
	done

docs: .venv-docs/.ready
	.venv-docs/bin/sphinx-build -W --keep-going --nitpicky -b html docs docs/_build/html
	.venv-docs/bin/python docs/check_pages.py docs/_build/html

# CHROMIUM=PATH uses a browser that is there; otherwise playwright fetches its own.
browser: docs
	$(if $(CHROMIUM),,.venv-docs/bin/playwright install chromium --only-shell $(if $(CI),--with-deps))
	.venv-docs/bin/python docs/check_browser.py docs/_build/html

bench: .venv-bench/.ready $(PEERS:%=.venv-%/.ready)
	.venv-bench/bin/python -m benchmarks $(ARGS)

build: $(UV)
	$(UV) build --clear --build-constraints requirements/test.txt --require-hashes
	$(UV) tool run twine@7.0.0 check --strict dist/*

# --- environments ---------------------------------------------------------------------------------------------------
.venv/.ready: requirements/test.txt
.venv-docs/.ready: requirements/docs.txt
.venv-bench/.ready: requirements/bench.txt
.venv-lowest/.ready: requirements/lowest.txt

# The build backend is one of the locked requirements, so our own install fetches nothing.
%/.ready: pyproject.toml .python-version | $(UV)
	$(UV) venv --quiet --clear --no-project --python $(PYTHON) $*
	$(UV) pip install --compile-bytecode --python $*/bin/python --require-hashes --requirement $(filter requirements/%,$^)
	$(UV) pip install --python $*/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# No lock: a release that breaks us is to be seen before it is final.
.venv-newest/.ready: pyproject.toml .python-version | $(UV)
	$(UV) venv --quiet --clear --no-project --python $(PYTHON) .venv-newest
	$(UV) pip install --python .venv-newest/bin/python --prerelease allow --group test --group build \
		--extra dask --extra hub --extra metrics --requirement pyproject.toml
	$(UV) pip install --python .venv-newest/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# The pins of a peer exclude ours, so each peer has an environment of its own.
$(PEERS:%=.venv-%/.ready): .venv-%/.ready: benchmarks/peers/requirements-%.txt benchmarks/peers/make_environment.sh | $(UV)
	benchmarks/peers/make_environment.sh $* .venv-$*
	touch $@

.uv/bin/uv: requirements/uv.txt
	python3 -m pip install --quiet --upgrade --target .uv --require-hashes --requirement $<
	touch $@

# --- locks: exact versions with hashes, no address of an index --------------------------------------------------------
COMPILE = $(UV) pip compile --quiet --universal --python-version $(PYTHON) \
	--generate-hashes --no-emit-index-url --no-annotate --no-header $(LOCK_ARGS)

lock: $(UV)
	$(COMPILE) pyproject.toml --extra dask --extra hub --extra metrics --group test --group dev -o requirements/test.txt
	$(COMPILE) pyproject.toml --extra metrics --group doc -o requirements/docs.txt
	$(COMPILE) pyproject.toml --extra metrics --group bench -o requirements/bench.txt
	$(COMPILE) --resolution lowest-direct pyproject.toml --extra dask --extra hub --extra metrics --group test --group build \
		-o requirements/lowest.txt
	echo uv | $(COMPILE) - -o requirements/uv.txt

clean:
	rm -rf .venv .venv-docs .venv-bench .venv-lowest .venv-newest $(PEERS:%=.venv-%) .uv dist demo docs/_build docs/benchmarks docs/generated docs/tutorials \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .coverage
