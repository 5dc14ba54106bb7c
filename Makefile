# Everything a developer runs. `make help` lists it; only python3 (3.11 to 3.13) and make are needed.

PORT ?= 8000
DATA ?= .data
PYTHON ?= python3
export PROMPT ?=

python := .venv/bin/python
# What serves is installed first; what only tests and checks need is added once one of them asks for it.
serving := .venv/.serving
installed := .venv/.installed
# uv has roots of its own unless told; a proxy that inspects TLS has put its root into the system's.
export UV_SYSTEM_CERTS ?= true
# Addresses of a developer's own package index stay out of the locks. Extras stay in: pip refuses a lock without.
compile := $(python) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(LOCK)
pip := $(python) -m pip install --disable-pip-version-check --require-hashes
sources := functions layers/common/parley local tests bench

.DEFAULT_GOAL := help
include web/web.mk
include deploy.mk
include bench/bench.mk

.PHONY: help dev chat test soak soak-load check format purge lock pip-check clean

help:  ## List the commands
	@sed -n 's/^\([a-z-]*\):[^#]*## *\(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name about; do printf '%-18s %s\n' "$$name" "$$about"; done

dev: $(serving)  ## Serve Parley on this laptop; PORT=8000 DATA=.data CATALOGUE=local/catalogue.toml
	@if ! command -v npm > /dev/null; then \
		echo "Node.js is not installed, so Parley serves its plain page instead of the web UI."; \
	elif ! $(MAKE) --no-print-directory --silent web/dist/index.html; then \
		echo "The web UI could not be built (see above), so Parley serves its plain page instead."; \
	fi
	@echo "Starting Parley with its data in $(DATA) ..."
	@exec $(python) -m local.dev --port="$(PORT)" --data "$(DATA)" $(if $(CATALOGUE),--catalogue "$(CATALOGUE)") \
		--follow-parent

chat: $(serving)  ## Ask a running Parley from the terminal; PROMPT="What is AI?" PORT=8000
	@exec $(python) -m local.chat --url "http://127.0.0.1:$(PORT)" $${PROMPT:+"$$PROMPT"}

purge: $(serving)  ## Run the purge once, on the data of `make dev`; DATA=.data
	@exec $(python) -m local.purge --data "$(DATA)"

# Tests wait more than they work: two a core keep the cores busy.
WORKERS ?= $(shell python3 -c 'import os; print(2 * min(os.cpu_count() or 1, 8))')

test: $(installed)  ## Run every test; WORKERS=4 ARGS="tests/support/test_sse_decoder.py -k token" narrows it
	@$(python) -m pytest -n $(WORKERS) $(ARGS)

soak: $(installed)  ## Live at random under faults and check what must hold; SECONDS=600
	@PARLEY_SOAK_SECONDS="$(or $(SECONDS),600)" $(python) -m pytest -q tests/faults/test_invariants.py

soak-load: $(installed)  ## Run many slow streams through one process; STREAMS=1000 SECONDS=60
	@$(python) -m bench.soak_load --streams "$(or $(STREAMS),1000)" --seconds "$(or $(SECONDS),60)"

check: $(installed)  ## Check format, lint, types and import rules
	@failed=0; \
	$(python) -m ruff format --check --quiet --diff . || failed=1; \
	$(python) -m ruff check --quiet . || failed=1; \
	$(python) -m mypy || failed=1; \
	.venv/bin/lint-imports --no-logo || failed=1; \
	exit $$failed

format: $(installed)  ## Format the code and apply safe fixes
	@$(python) -m ruff check --fix .
	@$(python) -m ruff format .

lock: $(serving)  ## Resolve the dependencies anew; LOCK="--upgrade" takes newer versions
	@$(compile) layers/common/requirements.in --output-file layers/common/requirements.txt
	@$(compile) requirements-local.in --output-file requirements-local.txt
	@$(compile) requirements-dev.in --output-file requirements-dev.txt

# Into an environment of its own. Where a proxy stops uv, this is how everything is installed.
pip-check:  ## Install the lock by pip alone, as where uv reaches no index; needs the network
	@$(PYTHON) -m venv --clear build/pip
	@build/pip/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@build/pip/bin/python -m pip check
	@rm -rf build/pip

clean:  ## Remove the environment and every cache; the data stays
	@rm -rf .venv .venv-deploy .venv-checkov .aws-sam .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build
	@find $(sources) -name __pycache__ -type d -prune -exec rm -rf {} +

web/dist/index.html: $(WEB_MODULES) $(shell find web/src web/public web/*.html web/*.json web/*.ts 2> /dev/null)
	@echo "Building the web UI ..."
	@cd web && npm run --silent build -- --logLevel warn

# uv installs the locked wheels about eight times as fast as pip, and comes from the same lock; where it
# has no wheel or cannot reach an index that pip can, pip does the same, slowly, and says what it is at.
$(serving): requirements-local.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Parley needs Python 3.11, 3.12 or 3.13; name one with make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(python) -c '' 2>/dev/null || { echo "Making .venv ..."; $(PYTHON) -m venv --clear .venv; }
	@awk '/^uv==/ {on=1; print; next} on && /^ / {print; next} {on=0}' requirements-local.txt > .venv/uv.txt
	@echo "Installing what serves, $$(grep -c == requirements-local.txt) packages of requirements-local.txt, into .venv ..."
	@{ $(pip) --quiet --no-deps -r .venv/uv.txt && \
		$(python) -m uv pip install --quiet --python $(python) --require-hashes -r requirements-local.txt; } || \
		{ echo "uv could not (see above); pip goes on, which takes minutes ..."; $(pip) -r requirements-local.txt; }
	@echo ../../../../layers/common > "$$($(python) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parley.pth"
	@touch $@

# What serves is in this lock too, in the same versions.
$(installed): requirements-dev.txt $(serving)
	@echo "Adding what tests and checks need, of requirements-dev.txt ..."
	@$(python) -m uv pip sync --quiet --python $(python) --require-hashes requirements-dev.txt || \
		{ echo "uv could not (see above); pip goes on, which takes minutes ..."; $(pip) -r requirements-dev.txt; }
	@touch $@
