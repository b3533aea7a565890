# The tasks of a checkout: `make help` lists them. Needs Python >= 3.11 and GNU make >= 3.81, nothing else but npm for test-codex.
#
#   PYTHON=python3.12    the interpreter to make .venv with
#   ARGS='…'             what to pass on: make test ARGS='tests/unit -k flush', make lock ARGS=--upgrade
#   SEED=1 MINUTES=30    of test-faults; EXAMPLES=1000 of its state machines

.DEFAULT_GOAL := help
BIN := .venv/bin
UV := $(BIN)/uv
PYPI := https://pypi.org/simple
# The codex whose format we write, and a newer one, which locks its threads and begins them as paginated ones.
CODEX_VERSIONS := 0.138.0 0.169.0

# uv works on .venv whatever environment is active, and believes the certificates that the machine does.
unexport VIRTUAL_ENV CONDA_PREFIX UV_PYTHON
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never
UV_SYSTEM_CERTS ?= 1
export UV_SYSTEM_CERTS
# Where HOME cannot be written to, it does without its cache.
ifneq ($(shell test -w "$$HOME" || echo no),)
export UV_NO_CACHE := 1
endif
# The lock is made from PyPI alone, and installed from it alone.
unexport UV_INDEX UV_DEFAULT_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_FIND_LINKS
# The recipes of .venv see it even where it comes from the command line.
export PYTHON

# What `make test` does a part of: faults done to processes, and state machines that go where processes do not come.
FAULT_TESTS := tests/acceptance/faults tests/unit/worker/store/test_store_machine.py tests/integration/test_interleavings.py

# Groups add up: what `make test` installed stays when `make demo` runs.
SYNC = $(UV) sync --quiet --locked --inexact --default-index $(PYPI) --extra worker --extra flower

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: .venv/.run ## Run the demonstration
	$(BIN)/livethread demo $(ARGS)

.PHONY: test
test: .venv/.test ## Run the tests, in two processes: ARGS='-n 0' takes one
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

.PHONY: test-faults
test-faults: .venv/.test ## Kill, stop, cut and fill up everything, for MINUTES=10, at random but for SEED=…
	LIVETHREAD_TEST_SEED="$(SEED)" LIVETHREAD_TEST_MINUTES="$(or $(MINUTES),10)" LIVETHREAD_TEST_EXAMPLES="$(or $(EXAMPLES),100)" \
	$(BIN)/python -m pytest -o faulthandler_timeout=0 $(FAULT_TESTS) $(ARGS)

.PHONY: codex
codex: .venv/.uv ## Install the versions of codex that test-codex runs with, by npm
	@sh .ci/codex $(CODEX_VERSIONS)

.PHONY: test-codex
test-codex: .venv/.test ## Run the tests with the real codex, which npm installs
	LIVETHREAD_TEST_CODEX="$$(sh .ci/codex $(CODEX_VERSIONS))" && export LIVETHREAD_TEST_CODEX && \
	$(BIN)/python -m pytest tests/codex $(ARGS)

.PHONY: bench
bench: .venv/.bench ## Measure the queue, listing, rebuilding, reading and writing: make bench ARGS=--help
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: lint
lint: .venv/.dev ## Check format, style, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: .venv/.dev ## Format the sources and mend what ruff can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: lock
lock: .venv/.uv ## Bring uv.lock and .ci/uv.txt up to date with pyproject.toml
	$(UV) lock --default-index $(PYPI) $(ARGS)
	bash .ci/check-lock --write

.PHONY: check-lock
check-lock: .venv/.uv ## Check that the lock is current, hashed, and of PyPI alone
	$(UV) lock --check --default-index $(PYPI)
	bash .ci/check-lock

.PHONY: build
build: .venv/.uv ## Build the source distribution, and the wheel from it, into dist/
	rm -rf dist
	$(UV) build --quiet --python $(BIN)/python --default-index $(PYPI)

.PHONY: check-wheel
check-wheel: build ## Check the built wheel in empty environments, away from the checkout
	bash .ci/check-wheel

.PHONY: clean
clean: ## Remove .venv, builds and caches
	rm -rf .venv build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps. .uv: .venv stands and has uv. .run, .test, .bench, .dev: it has the locked dependencies of these groups.

# .uv's lines say for which directory and which PYTHON .venv was made; for another one it is looked at again.
ifneq ($(shell sed -n 1p .venv/.uv 2>/dev/null),$(CURDIR))
.PHONY: .venv/.uv
else ifneq ($(PYTHON),)
ifneq ($(shell sed -n 2p .venv/.uv),$(PYTHON))
.PHONY: .venv/.uv
endif
endif

.venv/.uv: .ci/uv.txt .ci/venv $(BIN)/python
	@sh .ci/venv

# Missing, or a link that leads nowhere any more: .ci/venv makes it.
$(BIN)/python: ;

.venv/.run .venv/.test .venv/.bench .venv/.dev: .venv/.uv uv.lock pyproject.toml

.venv/.run:
	@echo 'Installing the locked dependencies into .venv'
	@$(SYNC) --no-default-groups
	@touch $@

.venv/.test:
	@echo 'Installing the locked dependencies and the test tools into .venv'
	@$(SYNC) --no-default-groups --group test
	@touch $@

.venv/.bench:
	@echo 'Installing the locked dependencies and what the benchmarks compare with into .venv'
	@$(SYNC) --no-default-groups --group bench
	@touch $@

.venv/.dev:
	@echo 'Installing the locked dependencies and the development tools into .venv'
	@$(SYNC) --no-default-groups --group dev
	@touch $@
