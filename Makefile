# Two commands matter: `make book` and `make test`. Both make .venv first if they need to.
# Whoever has no make finds the plain commands in README.md.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# PYTHON=/path/to/python chooses the interpreter that .venv is made from; PIP_ARGS adds options of pip.
PYTHON ?=
PIP_ARGS ?=
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python)

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PY := $(BIN)/python
PYTEST := $(PY) -m pytest
READY := .venv/.ready
BUILT := _build/.built
HTML := _build/html/index.html

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUTF8 := 1
export JUPYTER_PREFER_ENV_PATH := 1
# jupyter's paths come from the platform; without this it warns, and warnings are errors here
export JUPYTER_PLATFORM_DIRS := 1

# What the rendered book is made from: nothing else makes `make book` work again.
PAGES := $(wildcard _config.yml _toc.yml genindex.md notebooks/*.ipynb tools/*.py sdelib/*.py sdelib/*/*.py) \
         $(shell find book -type f ! -path '*/.ipynb_checkpoints/*' ! -path '*/__pycache__/*' 2>/dev/null)

.PHONY: help book test lab notebooks bench recorded clean pins cover \
        style types floors docstrings units pairs claims stored site browser

help: ## what you are reading
	@echo "make WHAT, where WHAT is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' Makefile
	@echo "or one check alone: style types floors docstrings units pairs claims stored site browser."
	@echo "PYTHON=... picks the interpreter (3.11 to 3.13) for .venv, PIP_ARGS=... adds options of pip."

# ------------------------------------------------------------------ the environment
$(READY): constraints.txt pyproject.toml
	@[ -x $(PY) ] && $(PY) -c "" 2>/dev/null || { \
	  found=; \
	  for p in $(PYTHONS); do \
	    if "$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; \
	    then found="$$p"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11 to 3.13 (with its venv module) among: $(PYTHONS)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	  fi; \
	  echo "making .venv from $$("$$found" -V 2>&1)"; \
	  "$$found" -m venv --clear .venv; }
	@echo "installing into .venv (a few minutes the first time)"
	$(PY) -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[book,test,train]"
	@touch $@

# ------------------------------------------------------------------ the book
book: $(BUILT) ## render the book to _build/html and print the file to open
	@echo "The book is ready. Open file://$(CURDIR)/$(HTML)"

$(BUILT): $(READY) $(PAGES)
	$(PY) tools/site.py build
	@mkdir -p $(@D) && touch $@

lab: $(READY) ## open JupyterLab on the chapters
	$(PY) tools/lab.py

notebooks: $(READY) ## re-execute the chapters whose text or library changed; FORCE=1: all of them
	$(PY) tools/execute.py $(if $(filter-out 0,$(FORCE)),--force)

recorded: $(READY) ## re-make what the chapters load because it takes too long to compute live
	@set -- $(wildcard tools/recorded/*.py); \
	if [ $$# -eq 0 ]; then echo "nothing is recorded yet: every chapter computes all it shows"; fi; \
	for script in "$$@"; do echo "== $$script"; $(PY) "$$script" || exit 1; done

cover: $(READY) ## re-make the README's picture
	$(PY) tools/cover.py

# ------------------------------------------------------------------ the checks, in the order they run
# One phony target each, so that `make types` runs one of them alone.
test: style types floors docstrings units pairs claims stored site browser ## all checks, in order

style: $(READY) #: format and lint
	@echo "== 1/10 style: ruff"
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: $(READY) #: static types
	@echo "== 2/10 types: mypy"
	@$(PY) -m mypy

floors: $(READY) #: who may import whom
	@echo "== 3/10 floors: import-linter"
	@$(BIN)/lint-imports --no-cache

docstrings: $(READY) #: what public names must say about themselves
	@echo "== 4/10 docstrings"
	@$(PY) tools/docstrings.py

units: $(READY) #: unit and property tests, doctests
	@echo "== 5/10 units: library, properties, doctests"
	@OMP_NUM_THREADS=1 $(PYTEST) -q -n 2 --dist worksteal -m "not book and not browser"

pairs: $(READY) #: the text and the executed twin of every chapter agree
	@echo "== 6/10 pairs"
	@$(PY) tools/pairs.py check

claims: $(READY) #: the numbers in prose and the machinery that guards them
	@echo "== 7/10 claims and the book's own tests"
	@$(PY) tools/claims.py check
	@$(PYTEST) -q -n 2 tests/book -m "not browser"

stored: $(READY) #: chapters re-executed, outputs compared with the stored ones
	@echo "== 8/10 stored outputs: nbval"
	@$(PYTEST) -q -n 2 --dist loadfile -W default --nbval --nbval-current-env \
	  --nbval-sanitize-with tests/book/sanitize.cfg notebooks

site: $(READY) #: render with warnings as errors
	@echo "== 9/10 site"
	@$(PY) tools/site.py build
	@mkdir -p $(dir $(BUILT)) && touch $(BUILT)

browser: $(BUILT) #: open every rendered page, and JupyterLab, in a headless Chromium
	@echo "== 10/10 browser"
	@found=; for b in "$${CHROMIUM:-chromium}" chromium-browser google-chrome chrome; do \
	  if command -v "$$b" >/dev/null 2>&1; then found=1; fi; \
	done; \
	if [ -n "$$found" ] || [ "$${CI:-}" = true ] || [ "$${SDELIB_REQUIRE_BROWSER:-}" = 1 ]; \
	then $(PYTEST) -n 2 --dist worksteal tests/book -m browser; \
	else echo "SKIPPED: no browser (chromium, google-chrome or CHROMIUM=path): the pages were not opened"; fi

# ------------------------------------------------------------------ the rest
bench: $(READY) ## what a step costs here, beside a hand-written loop
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(PY) "$$script" || exit 1; done

pins: $(READY) ## write constraints.txt from what .venv holds
	$(PY) tools/pins.py

clean: ## remove what commands made, but for .venv
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
