# make demo   embeds a real clip with the model in this package, on a fresh machine with Python 3.11 and nothing else
# make test   everything that has to pass: ruff, hear-validator, pytest
# Both make their own environment in .venv; PYTHON=python3.12 picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/hear-mwmae info
	$(BIN)/hear-mwmae embed tests/data/audio/piano.flac

test: $(VENV)/.tested-with lint
	$(BIN)/hear-validator hear_mwmae
	$(BIN)/python -m pytest

lint: $(VENV)/.tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# heareval and hearvalidator pin numpy 1.19 and Python 3.8, but run unmodified on what the `eval` extra installs. Of xares, the
# tests use the check of an encoder, which needs none of the gigabytes that its tasks do. mteb comes whole:
# it cannot be imported without what it depends on.
$(VENV)/.tested-with: $(VENV)/.installed
	$(PIP) --editable '.[parquet,onnx,train,eval,dev]'
	$(PIP) --no-deps --ignore-requires-python heareval==2021.1.3 hearvalidator==2021.0.6
	$(PIP) --no-deps xares==0.1.3
	$(PIP) 'mteb==2.26.24; python_version >= "3.11"'
	touch $@
