# The one entry for developers; `make` alone lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
RUN_TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test lint soak bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Stamps, so that a second call installs nothing. The constraint keeps torch to its CPU build.
$(VENV)/.base: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints/cpu.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) install -c constraints/cpu.txt -e '.[dev]'
	@touch $@

# The page is tested in a real browser. Where it cannot be installed these tests are skipped and say so.
$(VENV)/.browser: $(VENV)/.dev
	@command -v chromium >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 || \
	  echo "no chromium here, and none could be installed: tests in a browser are skipped"
	@touch $@

demo: $(VENV)/.base ## set up and take the tour on a small simulated survey
	$(BIN)/specdb demo

test: $(VENV)/.browser lint ## set up and run everything that needs no GPU and little time
	$(RUN_TESTS) -m "not slow and not gpu"

lint: $(VENV)/.dev ## style, types, import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/.browser ## the slow suites too
	$(RUN_TESTS) -m "not gpu"

# hnswlib is compiled on installation; an engine that is missing is left out of the comparison, which says so.
$(VENV)/.bench: $(VENV)/.dev
	-$(PIP) install -c constraints/cpu.txt -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench ## measure; writes benchmarks/results
	for name in preparation encoder filters index_kinds neighbours catalogues pipeline; do $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: $(VENV)/.dev ## run the commands of the documentation
	$(BIN)/pytest tests/test_docs.py

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
