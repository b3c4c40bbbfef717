# The two commands: `make demo` trains, prunes and reports on handwritten digits; `make test` checks everything.
# Both make the environment first; it is made again only when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

# The tests start many processes; each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-presets test-all docs install clean

demo: $(STAMP)
	$(BIN)/flowprune run --out runs/demo --overwrite

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/flowprune
	$(BIN)/python -m pytest -n $(JOBS)

# The short form of every preset, from the start to its last row, for three seeds, and the pages of the methods from what they came to;
# what results/presets/ holds already is not run again.
test-presets: $(STAMP)
	$(BIN)/python benchmarks/presets/run.py --seeds 0 1 2
	$(BIN)/python benchmarks/pages.py presets

# Everything, and of what can be tried any number of times more than a quick check has time for.
test-all: export FLOWPRUNE_THOROUGH = 1
test-all: test test-presets

# The pages as a site, in build/site; a link that leads nowhere is an error.
docs: $(STAMP)
	$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

install: $(STAMP)

$(STAMP): pyproject.toml
	@echo "Making the environment in $(VENV), once; torch is large, so this takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist runs
