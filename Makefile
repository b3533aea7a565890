# The tasks of a checkout: `make help` lists them. Needs Python >= 3.11 and GNU make >= 3.81, nothing else but npm for test-codex.
#
#   PYTHON=python3.12    the interpreter to make .venv with
#   ARGS='…'             what to pass on: make test ARGS='tests/unit -k flush', make lock ARGS=--upgrade
#   SEED=1 MINUTES=30    of test-faults; EXAMPLES=1000 of its state machines

.DEFAULT_GOAL := help
BIN := .venv/bin
UV := $(BIN)/uv
# The first is the codex whose format we write; the others lock their threads and begin them as paginated ones.
CODEX_VERSIONS := 0.138.0 0.169.0 0.171.0

# uv works on .venv whatever environment is active, and trusts the certificates that the machine trusts.
unexport VIRTUAL_ENV CONDA_PREFIX UV_PYTHON
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never
UV_SYSTEM_CERTS ?= 1
export UV_SYSTEM_CERTS
# uv does without its cache if HOME is not writable.
ifneq ($(shell test -w "$$HOME" || echo no),)
export UV_NO_CACHE := 1
endif
# The recipes of .venv see PYTHON even if it comes from the command line.
export PYTHON

# `make test` runs them briefly: faults injected into processes, and state machines for what processes do not reach.
FAULT_TESTS := tests/acceptance/faults tests/unit/worker/store/test_store_machine.py tests/integration/test_interleavings.py \
	tests/unit/worker/store/upkeep/test_damaged_homes.py

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: .venv/.run ## Run the demonstration
	$(BIN)/livethread demo $(ARGS)

.PHONY: test
test: .venv/.test ## Run the tests, in three processes: ARGS='-n 0' takes one
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-faults
test-faults: .venv/.test ## Inject faults at random for MINUTES=10, into one home and into four; SEED=… repeats a run
	LIVETHREAD_TEST_SEED="$(SEED)" LIVETHREAD_TEST_MINUTES="$(or $(MINUTES),10)" LIVETHREAD_TEST_EXAMPLES="$(or $(EXAMPLES),100)" \
	$(BIN)/python -m pytest -o faulthandler_timeout=0 $(FAULT_TESTS) $(ARGS)

.PHONY: codex
codex: .venv/.uv ## Install the versions of codex for test-codex, with npm
	@sh .ci/codex $(CODEX_VERSIONS)

.PHONY: test-codex
test-codex: .venv/.test ## Run the tests with the real codex, installed with npm
	LIVETHREAD_TEST_CODEX="$$(sh .ci/codex $(CODEX_VERSIONS))" && export LIVETHREAD_TEST_CODEX && \
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/codex $(ARGS)

.PHONY: bench
bench: .venv/.bench ## Measure the queue, listing, rebuilding, reading and writing: make bench ARGS=--help
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: lint
lint: .venv/.dev ## Check format, style, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: docs
docs: .venv/.dev ## Write docs/schema and docs/api.md, which come from the code
	$(BIN)/livethread schema --out docs/schema
	$(BIN)/python -m tests.nodes.api_page

.PHONY: format
format: .venv/.dev ## Format the sources and apply ruff's fixes
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: lock
lock: .venv/.uv ## Bring uv.lock and .ci/uv.txt up to date with pyproject.toml
	.ci/lock lock $(ARGS)
	bash .ci/check-lock --write

.PHONY: check-lock
check-lock: .venv/.uv ## Check that the lock is current, from one registry, and hashed
	bash .ci/check-lock

.PHONY: build
build: .venv/.uv ## Build the source distribution, and the wheel from it, into dist/
	rm -rf dist
	. .ci/index && $(UV) build --quiet --python $(BIN)/python

.PHONY: check-wheel
check-wheel: build ## Check the built wheel in empty environments, away from the checkout
	bash .ci/check-wheel

.PHONY: clean
clean: ## Remove .venv, builds and caches
	rm -rf .venv build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps. .uv: .venv works and has uv. .run, .test, .bench, .dev: .venv has the locked dependencies of these groups,
# along with those of earlier ones.

# .uv holds the directory and the PYTHON that .venv was made for; if either differs now, .ci/venv runs again.
ifneq ($(shell sed -n 1p .venv/.uv 2>/dev/null),$(CURDIR))
.PHONY: .venv/.uv
else ifneq ($(PYTHON),)
ifneq ($(shell sed -n 2p .venv/.uv),$(PYTHON))
.PHONY: .venv/.uv
endif
endif

.venv/.uv: .ci/uv.txt .ci/venv $(BIN)/python
	@sh .ci/venv

# If it is missing, or a dangling link, .ci/venv makes it.
$(BIN)/python: ;

.venv/.run .venv/.test .venv/.bench .venv/.dev: .venv/.uv uv.lock pyproject.toml

.venv/.run:
	@echo 'Installing the locked dependencies into .venv'
	@sh .ci/install
	@touch $@

.venv/.test:
	@echo 'Installing the locked dependencies and the test tools into .venv'
	@sh .ci/install test
	@touch $@

.venv/.bench:
	@echo 'Installing the locked dependencies and what the benchmarks compare with into .venv'
	@sh .ci/install bench
	@touch $@

.venv/.dev:
	@echo 'Installing the locked dependencies and the development tools into .venv'
	@sh .ci/install dev
	@touch $@
