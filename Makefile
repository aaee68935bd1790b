# One command each, from a fresh clone with python3 (3.11 or newer) alone:
#   make mini    set up and run the mini world's main experiment
#   make check   set up, then lint, types and the quick tests: for every commit
#   make test    set up, then lint, types and all tests: what CI runs
#   make mutation    mutants of evaluation/ and the selectors against the quick tests (an hour)
VENV ?= .venv
PYTHON ?= python3
RECIPE ?= mmssr_30pct.yaml
EXTRAS ?= test
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope

.PHONY: env mini smoke lint check test mutation clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

mini: env
	$(BIN)/python -m recipes.run $(RECIPE)

smoke: env
	$(BIN)/python -m recipes.run $(RECIPE) scale=smoke

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST)

mutation: env
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[$(EXTRAS),mutation]"
	$(BIN)/mutmut run --max-children 2

clean:
	rm -rf $(VENV) store runs build mutants
