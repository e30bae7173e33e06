# The commands of this project. They need Python 3.11, 3.12 or 3.13 and nothing else.
# Scripts in .venv are started as modules (`python -m`), because their first line breaks in a path with spaces.

PYTHON := .venv/bin/python
MANAGE := $(PYTHON) manage.py
# Use only options that Renovate supports, because it reruns the command in the first lines of each lock.
COMPILE := $(PYTHON) -m uv pip compile --quiet --upgrade --universal --python-version=3.11 --generate-hashes
VALIDATE := .venv-kubernetes/bin/python -m kubernetes_validate --kubernetes-version 1.37 --strict --quiet
RULE := ops/kubernetes/prometheus-operator/prometheus-rule.yaml

define INSTALL
id -un >/dev/null 2>&1 || [ -n "$$DATABASE_URL$$DATABASE_URL_FILE" ] || \
	{ echo "make: the user $$(id -u) has no name, which PostgreSQL needs. Add a line for it to /etc/passwd, or run this as" \
	"another user." >&2; exit 1; }; \
for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; \
	python=; \
done; \
[ -n "$$python" ] || { echo "make: needs Python 3.11, 3.12 or 3.13. Install one, then try again." >&2; exit 1; }; \
$$python -c 'import venv, ensurepip' 2>/dev/null || \
	{ echo "make: $$python lacks venv. Install it (Debian: apt-get install python3-venv), then try again." >&2; exit 1; }; \
exec $$python requirements/install.py
endef

.PHONY: help run test test-slow test-pythons fresh-clone mutants failover benchmark benchmark-data benchmark-users \
	benchmark-compare drill soak smoke check kubernetes prometheus-rule stop lock format
.DEFAULT_GOAL := help

help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

run: .venv/installed-embedded ## install what the server needs and serve on http://127.0.0.1:8000 or the address in BIND
	@exec $(PYTHON) -m voiceassist.run

test: .venv/installed-dev ## run the fast tests in two minutes, in WORKERS=3 processes
	@$(PYTHON) -m pytest -m 'not slow' --numprocesses $(or $(WORKERS),3) --dist loadfile

test-slow: .venv/installed-dev ## run the other tests: clusters, browsers, containers, backups, crashes
	@$(PYTHON) -m pytest -m slow --numprocesses $(or $(WORKERS),4) --dist loadfile

test-pythons: .venv/installed-dev ## run the fast tests on every other supported Python of this machine
	@$(PYTHON) -m tests.support.other_pythons

fresh-clone: .venv/installed-dev ## install and run the server in fresh clones, as root and as another user; skipped unless run as root
	@$(PYTHON) -m pytest tests/fresh_clone

mutants: .venv/installed-dev ## put faults into the code and print those that no test notices: MODULES='core/*' SAMPLE=40 SEED=1
	@$(PYTHON) -m tests.mutants $(if $(MODULES),--modules '$(MODULES)') $(SAMPLE:%=--sample %) $(SEED:%=--seed %)

failover: .venv/installed-dev ## break PostgreSQL and Redis under load and count the lost requests: ROUNDS=10 SEED=1
	@$(PYTHON) -m pytest tests/failover $(ROUNDS:%=--rounds %) $(SEED:%=--seed %)

benchmark: .venv/installed-dev ## compare readiness with other packages, and measure the middleware and background jobs
	@$(PYTHON) -m tests.benchmarks.readiness
	@$(PYTHON) -m tests.benchmarks.middleware
	@$(PYTHON) -m tests.benchmarks.jobs

benchmark-data: .venv/installed-dev ## measure conversations and the admin with MESSAGES=10000000
	@$(PYTHON) -m tests.benchmarks.data $(MESSAGES:%=--messages %)

benchmark-users: .venv/installed-dev ## measure the search for users with USERS=1000000
	@$(PYTHON) -m tests.benchmarks.users $(USERS:%=--users %)

benchmark-compare: .venv/installed-dev ## compare the admin's pages with those of REVISION=HEAD^ at MESSAGES=10000000
	@$(PYTHON) -m tests.benchmarks.compare $(or $(REVISION),HEAD^) $(MESSAGES:%=--messages %)

drill: .venv/installed-dev ## back up, destroy, restore and verify a database with MESSAGES=100000
	@$(PYTHON) -m tests.benchmarks.drill $(MESSAGES:%=--messages %)

soak: .venv/installed-dev ## inject random faults under constant probing: SECONDS=600 SEED=1
	@$(PYTHON) -m tests.benchmarks.soak $(SECONDS:%=--seconds %) $(SEED:%=--seed %)

smoke: .venv/installed-dev ## start every benchmark and the soak test with tiny sizes
	@$(PYTHON) -m tests.benchmarks.smoke

check: .venv/installed-dev ## check style, spelling, types, imports, migrations and deployment, and that benchmarks run
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m codespell_lib .
	$(PYTHON) -m djlint --lint --quiet core health
	$(PYTHON) -m mypy .
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	$(MANAGE) makemigrations --check
	$(PYTHON) -m tests.support.lint_migrations
	$(MANAGE) spectacular --validate --fail-on-warn --file /dev/null
	VOICEASSIST_ENV=production SECRET_KEY=$$($(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(64))') \
		ALLOWED_HOSTS=example.org BEHIND_PROXY=true METRICS_TOKEN=token REDIS_URL=rediss://host QDRANT_URL=https://host:6333 \
		DATABASE_URL='postgres://user:password@host/name?sslmode=verify-full' $(MANAGE) check --deploy --fail-level WARNING
	@$(MAKE) --no-print-directory smoke

kubernetes: .venv-kubernetes/installed-kubernetes ## validate ops/kubernetes with the API's schemas and checkov's policies
	@mkdir -p var
	@if command -v kubectl >/dev/null; then \
		kubectl kustomize ops/kubernetes/overlays/production >var/kubernetes.yaml && \
		$(VALIDATE) var/kubernetes.yaml ops/kubernetes/secrets.example.yaml && \
		.venv-kubernetes/bin/python -m checkov.main --config-file ops/kubernetes/checkov.yaml --file var/kubernetes.yaml; \
	else \
		$(VALIDATE) $$(find ops/kubernetes -name '*.yaml' ! -name kustomization.yaml ! -name checkov.yaml) && \
		echo "make kubernetes: kubectl not found. The overlay was not rendered, and policies were not checked." >&2; \
	fi

prometheus-rule: ## generate the PrometheusRule for Kubernetes from the alerts in ops/prometheus
	@{ sed '/^spec:/q' $(RULE); sed -n '/^groups:/,$$ { s/^./  &/; p; }' ops/prometheus/alerts.yml; } >$(RULE).new
	@mv $(RULE).new $(RULE)

stop: ## stop the embedded servers
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m voiceassist.embedded stop; fi

lock: .venv/installed-dev ## update the lock files
	$(COMPILE) --output-file=requirements/uv.txt requirements/uv.in
	$(COMPILE) --output-file=requirements/base.txt requirements/base.in
	$(COMPILE) --output-file=requirements/embedded.txt requirements/embedded.in
	$(COMPILE) --output-file=requirements/dev.txt requirements/dev.in
	$(COMPILE) --output-file=tests/benchmarks/peers.txt tests/benchmarks/peers.in
	$(COMPILE) --output-file=requirements/kubernetes.txt requirements/kubernetes.in

format: .venv/installed-dev ## format the code
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

.venv-kubernetes/installed-kubernetes: requirements/kubernetes.txt requirements/uv.txt | .venv/installed-dev
	@$(PYTHON) requirements/install.py .venv-kubernetes requirements/kubernetes.txt

.venv/installed-embedded: requirements/embedded.txt requirements/uv.txt
	@$(INSTALL) .venv requirements/embedded.txt

# dev.txt includes embedded.txt, so `make run` has nothing to install afterwards.
.venv/installed-dev: requirements/dev.txt requirements/uv.txt
	@$(INSTALL) .venv requirements/dev.txt requirements/embedded.txt
