# make repro: the whole study, from dataset to report.  make test: all checks and tests.  make chaos: hours of kills.
VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
# Stages call `python`, which must be the environment's. Commands here have full paths, because the make of macOS (3.81)
# looks them up on the path with which it was started.
export PATH := $(BIN):$(PATH)

.PHONY: repro test chaos ui format

repro: $(VENV)/.installed
	$(BIN)/trimlab check
	$(BIN)/dvc repro

test: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

KILLS ?= 200
SEED ?= 0
chaos: $(VENV)/.installed
	PYTHONPATH=src:tests $(BIN)/python -u tests/chaos/chaos.py --kills $(KILLS) --seed $(SEED)

ui: $(VENV)/.installed
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server \
		--host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

format: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
