# One command each, from a fresh clone with python3 (3.11 or newer) alone:
#   make mini    set up and run the mini world's main experiment
#   make test    set up and run the tests
VENV ?= .venv
PYTHON ?= python3
RECIPE ?= mmssr_30pct.yaml
EXTRAS ?= test
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: env mini test smoke clean

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

test: env
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) store runs build
