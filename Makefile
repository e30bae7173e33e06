# Everything that a developer, CI and a first visitor type. Needs Python 3.11 to 3.13 and nothing else.
# Scripts of the virtual environment are started as modules: their first line breaks in a path with spaces.

PYTHON := .venv/bin/python
MANAGE := $(PYTHON) manage.py
UV_COMPILE := $(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
VALIDATE := .venv-kubernetes/bin/python -m kubernetes_validate --kubernetes-version 1.37 --strict --quiet
RULE := ops/kubernetes/prometheus-operator/prometheus-rule.yaml

.PHONY: help run test failover benchmark benchmark-data soak check kubernetes prometheus-rule stop lock format
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

run: .venv/installed ## set everything up and serve on http://127.0.0.1:8000, or where BIND says
	@$(PYTHON) -m voiceassist.address
	@$(MANAGE) migrate --verbosity 0
	@$(MANAGE) checkdeps
	@$(MANAGE) create_admin
	@echo "Serving. Stop with Ctrl-C; the servers under var/ go on until: make stop"
	@$(PYTHON) -m voiceassist.address health ready metrics admin/ api/docs/
	@exec $(PYTHON) -m gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application

test: .venv/installed ## run every test
	@$(PYTHON) -m pytest

failover: .venv/installed ## break PostgreSQL under load and count what clients lost: ROUNDS=10 SEED=1
	@$(PYTHON) -m pytest tests/failover $(ROUNDS:%=--rounds %) $(SEED:%=--seed %)

benchmark: .venv/installed ## measure readiness against what one would take instead, and what our middleware costs
	@$(PYTHON) -m tests.benchmarks.readiness
	@$(PYTHON) -m tests.benchmarks.middleware

benchmark-data: .venv/installed ## measure conversations and the admin at MESSAGES=10000000
	@$(PYTHON) -m tests.benchmarks.data $(MESSAGES:%=--messages %)

soak: .venv/installed ## random faults under constant probing: SECONDS=600 SEED=1
	@$(PYTHON) -m tests.benchmarks.soak $(SECONDS:%=--seconds %) $(SEED:%=--seed %)

check: .venv/installed ## lint, types, import rules, migrations, deployment
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy .
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	$(MANAGE) makemigrations --check
	$(PYTHON) -m tests.support.lint_migrations
	$(MANAGE) spectacular --validate --fail-on-warn --file /dev/null
	VOICEASSIST_ENV=production SECRET_KEY=$$($(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(64))') \
		ALLOWED_HOSTS=example.org DATABASE_URL=postgres://user:password@host/name REDIS_URL=redis://host \
		QDRANT_URL=http://host:6333 $(MANAGE) check --deploy --fail-level WARNING

kubernetes: .venv-kubernetes/installed ## validate ops/kubernetes by the API's schemas and by checkov's policies
	@mkdir -p var
	@if command -v kubectl >/dev/null; then \
		kubectl kustomize ops/kubernetes/overlays/production >var/kubernetes.yaml && \
		$(VALIDATE) var/kubernetes.yaml ops/kubernetes/secrets.example.yaml && \
		.venv-kubernetes/bin/python -m checkov.main --config-file ops/kubernetes/checkov.yaml --file var/kubernetes.yaml; \
	else \
		$(VALIDATE) $$(find ops/kubernetes -name '*.yaml' ! -name kustomization.yaml ! -name checkov.yaml) && \
		echo "make kubernetes: NOT DONE: rendering the overlay and checking policies, because there is no kubectl" >&2; \
	fi

prometheus-rule: ## write the alerts of ops/prometheus again as a PrometheusRule of Kubernetes
	@{ sed '/^spec:/q' $(RULE); sed -n '/^groups:/,$$ { s/^./  &/; p; }' ops/prometheus/alerts.yml; } >$(RULE).new
	@mv $(RULE).new $(RULE)

stop: ## stop the development servers under var/
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m voiceassist.embedded stop; fi

lock: .venv/installed ## lock the requirements again, with hashes
	$(UV_COMPILE) --upgrade requirements/base.in --output-file requirements/base.txt
	$(UV_COMPILE) --upgrade requirements/dev.in --output-file requirements/dev.txt
	$(UV_COMPILE) --upgrade tests/benchmarks/peers.in --output-file tests/benchmarks/peers.txt
	$(UV_COMPILE) --upgrade requirements/kubernetes.in --output-file requirements/kubernetes.txt

format: .venv/installed ## put the code into shape
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

.venv-kubernetes/installed: requirements/kubernetes.txt | .venv/installed
	@echo "Installing into .venv-kubernetes ..."
	@$(PYTHON) -m venv --clear .venv-kubernetes
	@.venv-kubernetes/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

.venv/installed: requirements/dev.txt
	@for python in python3.13 python3.12 python3.11 python3 python; do \
		$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; \
		python=; \
	done; \
	[ -n "$$python" ] || { echo "make: needs Python 3.11, 3.12 or 3.13: install one, then try again" >&2; exit 1; }; \
	$$python -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "make: $$python lacks venv: install it (Debian: apt-get install python3-venv), then try again" >&2; exit 1; }; \
	echo "Installing into .venv with $$($$python --version) ..."; \
	$$python -m venv --clear .venv && \
	$(PYTHON) -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	@touch $@
