# Two commands: `make demo` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test statistical bench lint docs clean

demo: $(STAMP)
	$(BIN)/pyro-unmix demo --out demo
	@echo "Open demo/report.html in a browser."

# A process for each core, with one thread: two threads that wait for one core are slower than one.
# One that has nothing left to do takes from the other.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

statistical: $(STAMP)
	$(BIN)/python -m pytest -m statistical

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Broken links and references fail. Nothing is fetched.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo "Open build/docs/index.html in a browser."

# torch is asked for by its pinned version first, so that nothing else chooses a larger build of it.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) demo build *.egg-info
