# make run      install into .venv and start the server; data in ./mq9-data
# make test     install into .venv and pass the tests
# make help     the rest
#
# Python 3.11 or newer and make are all that is needed. PYTHON=... picks another Python, VENV=... another environment,
# ARGS=... goes to the program (make run ARGS="--port 4333", make test ARGS="-k fetch -x").

VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# CI also takes the clients that compile for a minute or two when their cache is empty.
MARKS := $(if $(CI),-m "not long and not bench")

.DEFAULT_GOAL := help
.PHONY: help run test check lint types format long bench fuzz interop cluster coverage pythons transcripts docs clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# Stamps, so that a second `make run` starts at once. mq9 itself is installed in place: edits need no new install.
$(VENV)/.installed: pyproject.toml scripts/venv
	@scripts/venv $(VENV)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml scripts/venv
	@scripts/venv $(VENV) dev
	@touch $@ $(VENV)/.installed

run: $(VENV)/.installed ## install and start the server, data in ./mq9-data
	@exec $(BIN)/mq9 server $(ARGS)

test: $(VENV)/.installed-dev ## install and run the tests
	$(PYTEST) $(MARKS) $(ARGS)

check: lint types test ## what CI runs: lint, types, tests

lint: $(VENV)/.installed-dev ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff repair what it can
	$(BIN)/ruff check --fix .

long: $(VENV)/.installed-dev ## the tests that take minutes: crash rounds, soak, damage
	$(PYTEST) -m "long" --timeout 3600 $(ARGS)

bench: $(VENV)/.installed-dev ## figures against nats-server, same machine, same run
	$(BIN)/python -m bench $(ARGS)

fuzz: $(VENV)/.installed-dev ## many inputs no client would send; FUZZ_EXAMPLES=100000 sets how many each
	MQ9_TEST_EXAMPLES=$${FUZZ_EXAMPLES:-100000} $(PYTEST) -m "fuzz" --timeout 7200 $(ARGS)

interop: $(VENV)/.installed-dev ## every real client that this machine can build, also the slow ones
	$(PYTEST) tests/interop -m "interop or heavy" --timeout 1800 $(ARGS)

cluster: $(VENV)/.installed-dev ## every test of one server, on a cluster of three brokers
	$(PYTEST) --cluster -m "not bench and not heavy and not long" $(ARGS)

coverage: $(VENV)/.installed-dev ## the tests with coverage of codec, store and state machines
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

pythons: ## the tests on every supported Python that is installed
	@for version in 3.11 3.12 3.13; do \
		if python$$version --version >/dev/null 2>&1; then \
			$(MAKE) test PYTHON=python$$version VENV=.venv-$$version || exit 1; \
		else echo "python$$version is not installed"; fi; \
	done

transcripts: $(VENV)/.installed-dev ## write the golden transcripts anew; review the diff
	$(PYTEST) tests/transcripts --rewrite-transcripts $(ARGS)

docs: $(VENV)/.installed-dev ## write the tables of docs/ anew from the code they document
	$(BIN)/python -m scripts.docs_tables

clean: ## remove what make made, but not data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage* build dist *.egg-info
