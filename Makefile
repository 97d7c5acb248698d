# make demo     embeds a real clip with the model in this package, on a fresh machine with Python 3.11 and nothing else
# make test     everything that has to pass: ruff, mypy, the docs, hear-validator, pytest
# make dev      an environment for changes: for lint, fast and most tests, without tensorflow and mteb
# make lint     ruff and mypy
# make docs     the documentation as a site, in site/; warnings are errors
# make fast     the tests that need neither training nor evaluation; TORCH='torch==2.9.*' picks another torch
# make validate hear-validator on SOURCE, a model that load_model takes
# make dist     source distribution and wheel, checked, in dist/
# The environments are .venv, which grows, and .venv-docs; PYTHON=python3.12 picks another interpreter.
# TORCH and PYTHON are for a new environment: make clean before.

PYTHON ?= python3
TORCH ?= torch
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet
DOCS := $(VENV)-docs

.PHONY: demo test dev lint docs fast validate dist clean

demo: $(VENV)/.installed
	$(BIN)/hear-mwmae info
	$(BIN)/hear-mwmae embed tests/data/audio/piano.flac

test: lint docs validate
	$(BIN)/python -m pytest -n 2 --dist worksteal

dev: $(VENV)/.dev
	@echo 'Next: make lint'
	@echo '      $(BIN)/python -m pytest tests/test_clips.py'
	@echo '      make docs'
	@echo '      $(BIN)/pre-commit install'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hear_mwmae eval

# With --quiet, --strict would count no warnings.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

FAST := audio audio_cases audio_search cli clips hear_api hub linear model official package parity pooling weights weights_damage windows

fast: $(VENV)/.dev
	$(BIN)/python -m pytest $(FAST:%=tests/test_%.py)

export SOURCE
validate: $(VENV)/.tested-with
	$(BIN)/hear-validator hear_mwmae $(if $(SOURCE),--model "$$SOURCE")

dist: $(VENV)/.installed
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(DOCS) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache site

# Older pips know no dependency groups.
%/bin/pip:
	$(PYTHON) -m venv $*
	$@ install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed: setup.cfg $(BIN)/pip
	$(PIP) '$(TORCH)' --editable .
	touch $@

EXTRAS := official,onnx,probe,ray,shards,train
$(VENV)/.dev: pyproject.toml $(VENV)/.installed
	$(PIP) --group dev --editable '.[$(EXTRAS)]'
	touch $@

# heareval and hearvalidator pin numpy 1.19 and Python 3.8, but run unmodified on what the `eval` extra installs. Of xares, the
# tests use the check of an encoder, which needs none of the gigabytes that its tasks do. mteb comes whole:
# it cannot be imported without what it depends on.
$(VENV)/.tested-with: $(VENV)/.dev
	$(PIP) --group dev --editable '.[$(EXTRAS),research,eval]'
	$(PIP) --no-deps --ignore-requires-python heareval==2021.1.3 hearvalidator==2021.0.6
	$(PIP) --no-deps xares==0.1.3
	$(PIP) 'mteb==2.26.24; python_version >= "3.11"'
	touch $@

$(DOCS)/.installed: pyproject.toml $(DOCS)/bin/pip
	$(DOCS)/bin/pip install --quiet --group docs
	touch $@
