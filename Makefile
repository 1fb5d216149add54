# Every target makes what it needs: the virtual environment is built once and used again.
PYTHON ?= python3
BIN := .venv/bin
# Two workers: the tests are many small compilations, each on about one core.
TEST_WORKERS ?= 2

.PHONY: demo test lint clean

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" launch/demo.sh

test: .venv/installed-dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: requirements.txt pyproject.toml
	@echo "Making .venv and installing what requirements.txt names (one to three minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the tools for tests: PyTorch and transformers are among them ..."
	$(BIN)/pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs datasets
