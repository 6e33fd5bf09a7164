# The two commands of the README, each with all the set-up it needs, and nothing clever.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: sweep test check clean

# The main job: nine strategies on a stream of voice commands, and a leaderboard.
sweep: $(READY)
	$(BIN)/lamina sweep jobs/quickstart.yaml

# Everything that is checked before a change lands; two processes share the test files.
test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The checks that run nothing.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=platform $(BIN)/lint-imports --no-logo

# torch comes first and by itself: whatever asks for it afterwards takes the build that is there.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Lamina needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev,privacy,serve]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs
