# make setup   a .venv with every pinned package        make test       lint and the default tests
# make demo    learn units, sort what is left, score    make test-slow  the tests marked slow
# make lint    ruff and mypy                            make clean      remove what these made
# make docs    the documentation, into build/docs       make wheel      sdist and wheel, into dist
# make coverage  which lines the default tests run      make mutants    whether tests notice changed code
#
# PYTHON=python3.12 make setup   chooses the interpreter that .venv is made from (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Not in the lock: it asks for a cloudpickle older than what dask and joblib ask for, and works with a newer one.
RAY_LAUNCHER := hydra-ray-launcher==1.2.2
PIP := $(BIN)/python -m pip --disable-pip-version-check

.NOTPARALLEL:
.PHONY: setup test test-slow coverage mutants demo lint docs wheel lock clean

setup: $(STAMP)

# Done again whenever the lock or the package's metadata is newer than the last complete installation.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "setup: needs Python 3.11 or newer as '$(PYTHON)'; choose another by: make setup PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "setup: '$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs the package python3-venv"; exit 1; }
	@echo "setup: installing $$(grep -c == requirements.lock) pinned packages into $(VENV) (some minutes the first time)"
	@$(PIP) install -q -r requirements.lock || \
		{ echo "setup: a pinned package could not be installed; see the lines above"; exit 1; }
	@$(PIP) install -q --no-deps $(RAY_LAUNCHER) || { echo "setup: $(RAY_LAUNCHER) could not be installed"; exit 1; }
	@$(PIP) install -q --no-deps -e . || { echo "setup: esort itself could not be installed"; exit 1; }
	@touch $@
	@echo "setup: ready, use $(BIN)/python"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes; the tests of a file stay together, for what they share is made once.
test: lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

# pytest ends with 5 where no test is marked slow.
test-slow: setup
	$(BIN)/python -m pytest -m slow || [ $$? -eq 5 ]

coverage: setup
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=json:build/coverage.json --cov-fail-under=90

mutants: setup
	$(BIN)/python benchmarks/mutants.py

demo: setup
	$(BIN)/python train.py experiment=demo

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "docs: open build/docs/index.html"

wheel: setup
	$(BIN)/python -m build --no-isolation

# After a change of the dependencies: pip install -e '.[peers,dev]' into .venv, then this. Local builds of
# torch carry a suffix that the package index does not know.
lock:
	@echo "# Every package that the tests and the demo run with (Python 3.11, Linux x86-64); made by \`make lock\`." > requirements.lock.new
	@$(PIP) freeze --exclude-editable --exclude hydra-ray-launcher | sed 's/+cpu$$//' >> requirements.lock.new
	@if grep -qE ' @ |file:' requirements.lock.new; then echo "lock: these do not come from the package index:"; \
		grep -E ' @ |file:' requirements.lock.new; rm requirements.lock.new; exit 1; fi
	@mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
