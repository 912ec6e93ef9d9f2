# The commands of the README. Each sets up what it needs; nothing has to be typed before.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
ALONE := tests/integration/test_resume.py

.PHONY: run test check lint lock clean

run: $(VENV)/.run  ## open the app on http://127.0.0.1:7860
	$(BIN)/python app.py $(ARGS)

# Two workers with a file of tests at a time, the slow ones first. One thread each: threads of two programs that share
# two cores wait for each other. That resuming is exact with several threads is tested alone, after them.
test: $(VENV)/.test chromium lint  ## everything: lint, types, unit, parity, integration and browser tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(or $(ARGS),--ignore=$(ALONE))
	$(if $(ARGS),,$(BIN)/python -m pytest $(ALONE))

# What to run while working: no process is started but where starting one is the point, no browser.
check: lint  ## lint, types, unit and parity tests but for the slow ones, in under two minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q -r fE -m "not slow" --durations=3 --durations-min=2 \
	  $(or $(ARGS),tests/unit tests/parity)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# A virtual environment whose own tools are there, on Debian and Ubuntu too, where python3-venv is a package of its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) is what '$(PYTHON)' is. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(call as_root,apt-get update -qq && apt-get install -y -qq python3-venv) && $(PYTHON) -m venv $(VENV); }

$(VENV)/.run: requirements.txt requirements-base.txt constraints.txt | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -r requirements-base.txt
	touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

# The newest versions that the ranges allow, of everything, on every platform. Run `make test` after it.
lock: $(VENV)/.test  ## renew constraints.txt
	$(BIN)/uv pip compile -q requirements.txt requirements-dev.txt --universal --python-version 3.11 --upgrade \
	  --no-annotate --custom-compile-command "make lock" -o constraints.txt

# The browser tests drive a system browser.
.PHONY: chromium
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null \
	  || { $(call as_root,apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core); }

clean:
	rm -rf $(VENV) build cache .pytest_cache .ruff_cache

as_root = if [ "$$(id -u)" = 0 ]; then $(1); else sudo sh -c '$(1)'; fi
