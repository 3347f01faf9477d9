# make demo | test | slow | nightly | lint | docs: each makes the environment and installs what it needs; a second call is instant.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More threads than cores fight each other. Tests use tiny tensors, where one thread is fastest.
demo: export OMP_NUM_THREADS ?= 2
test slow nightly: export OMP_NUM_THREADS := 1

.PHONY: demo test slow nightly lint docs clean

demo: $(VENV)/.ready-test
	$(BIN)/python -m lightning_adastate.demo $(DEMO_ARGS)

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n 2 --dist loadscope $(PYTEST_ARGS)

slow: $(VENV)/.ready-test
	$(BIN)/python -m pytest -m "slow and not nightly and not gpu" -n 2 --dist loadscope $(PYTEST_ARGS)

nightly: $(VENV)/.ready-test
	$(BIN)/python -m pytest -m "nightly and not gpu" -n 2 --dist loadscope $(PYTEST_ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready-docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@
