# make demo     embeds a real clip with the model in this package, on a fresh machine with Python 3.11 and nothing else
# make test     everything that has to pass: ruff, mypy, the docs, hear-validator, pytest
# make lint     ruff and mypy
# make docs     the documentation as a site, in site/; warnings are errors
# make fast     the tests that need neither training nor evaluation; TORCH='torch==2.9.*' picks another torch
# make matrix   `make fast` on every Python from 3.11 to 3.14 that is installed
# make validate hear-validator on SOURCE, a model that load_model takes
# make dist     source distribution and wheel, checked, in dist/
# All make their own environment, in .venv or .venv-3.x; PYTHON=python3.12 picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet

.PHONY: demo test lint docs fast matrix validate dist clean

demo: $(VENV)/.installed
	$(BIN)/hear-mwmae info
	$(BIN)/hear-mwmae embed tests/data/audio/piano.flac

test: lint docs validate
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hear_mwmae eval

docs: $(VENV)/.tested-with
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

export SOURCE
validate: $(VENV)/.tested-with
	$(BIN)/hear-validator hear_mwmae $(if $(SOURCE),--model "$$SOURCE")

dist: $(VENV)/.installed
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

TORCH ?= torch
FAST := audio audio_cases audio_search cli clips hear_api hub linear model official package parity pooling weights weights_damage windows

fast:
	venv=$(VENV)-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
	$(PYTHON) -m venv $$venv && $$venv/bin/pip install --quiet '$(TORCH)' --editable '.[dev]' && \
	$$venv/bin/python -m pytest $(FAST:%=tests/test_%.py)

# Of pyenv and of the path.
PYTHONS ?= $(foreach v,3.11 3.12 3.13 3.14,$(firstword $(wildcard $(HOME)/.pyenv/versions/$(v).*/bin/python) $(shell command -v python$(v))))

matrix:
	for python in $(PYTHONS); do $(MAKE) fast PYTHON=$$python || exit 1; done

clean:
	rm -rf $(VENV) $(VENV)-3.* build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache site

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

# heareval and hearvalidator pin numpy 1.19 and Python 3.8, but run unmodified on what the `eval` extra installs. Of xares, the
# tests use the check of an encoder, which needs none of the gigabytes that its tasks do. mteb comes whole:
# it cannot be imported without what it depends on.
$(VENV)/.tested-with: $(VENV)/.installed
	$(PIP) --editable '.[onnx,shards,official,probe,train,research,eval,docs,dev]'
	$(PIP) --no-deps --ignore-requires-python heareval==2021.1.3 hearvalidator==2021.0.6
	$(PIP) --no-deps xares==0.1.3
	$(PIP) 'mteb==2.26.24; python_version >= "3.11"'
	touch $@
