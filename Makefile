# make repro: the whole study, from dataset to report.  make test: everything that must hold.
VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
# Stages call `python`: the environment's own.
export PATH := $(BIN):$(PATH)

.PHONY: repro test ui format

repro: $(VENV)/.installed
	trimlab check
	dvc repro

test: $(VENV)/.installed
	ruff check
	ruff format --check
	mypy
	python -m pytest

ui: $(VENV)/.installed
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server \
		--host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

format: $(VENV)/.installed
	ruff check --fix
	ruff format

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
