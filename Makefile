# `make` lists the targets. Everything is set up in .venv; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test upgrade faults history steady kills drop-in image unit soak idle fuzz machine debug coverage lint audit format bench bench-peers bench-cluster demo docs lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## set up, start the proxy and the chat demo as its backend, print their addresses
	$(BIN)/python examples/chat/run.py

test: $(VENV)/dev.stamp ## set up, run all tests
	sh tests/system-tools.sh
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

faults: $(VENV)/dev.stamp ## the fault table of docs/faults.md, one line for each row; FAULTS_ROUNDS=full
	sh tests/system-tools.sh
	$(BIN)/python -m tests.evidence $(PYTEST_ARGS)

history: $(VENV)/dev.stamp ## clusters under random faults, judged by a checker; HISTORY_SECONDS, HISTORY_SEED
	sh tests/system-tools.sh
	HISTORY_SECONDS=$${HISTORY_SECONDS:-120} HISTORY_SEED=$${HISTORY_SEED:-$$(date +%s)} REDIS_RESTARTS=20 \
		$(BIN)/python -m pytest -s tests/test_cluster_history.py \
		tests/test_cluster_faults.py::test_redis_restarted_under_load $(PYTEST_ARGS)

steady: $(VENV)/dev.stamp ## 1,000 clients on two nodes, 200 sends a second between them, calm and under faults; STEADY_SECONDS
	sh tests/system-tools.sh
	STEADY_SECONDS=$${STEADY_SECONDS:-600} STEADY_SEED=$${STEADY_SEED:-$$(date +%s)} \
		STEADY_CONNECTIONS=$${STEADY_CONNECTIONS:-1000} STEADY_P99=$${STEADY_P99:-100} \
		$(BIN)/python -m pytest -s tests/test_cluster_steady.py $(PYTEST_ARGS)

kills: $(VENV)/dev.stamp ## one of two nodes killed under load, again and again; KILL_ROUNDS, KILL_NODE_TIMEOUT
	sh tests/system-tools.sh
	KILL_ROUNDS=$${KILL_ROUNDS:-20} KILL_NODE_TIMEOUT=$${KILL_NODE_TIMEOUT:-30s} \
		$(BIN)/python -m pytest -s tests/test_node_kills.py $(PYTEST_ARGS)

unit: $(VENV)/dev.stamp ## install the systemd unit in a new Debian, boot that, reload, kill and stop it; as root, needs the network
	command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null || \
		apt-get install --yes --no-install-recommends mmdebstrap systemd-container
	$(BIN)/python -m tests.systemd

soak: $(VENV)/dev.stamp ## two nodes whose clients come and go for two hours: does anything pile up? SOAK_SECONDS, SOAK_CONNECTIONS
	sh tests/system-tools.sh
	SOAK_SECONDS=$${SOAK_SECONDS:-7200} SOAK_CONNECTIONS=$${SOAK_CONNECTIONS:-500} \
		$(BIN)/python -m pytest -s tests/test_soak.py $(PYTEST_ARGS)

idle: $(VENV)/dev.stamp ## 10,000 connections that do nothing for an hour: CPU and memory of each; IDLE_CONNECTIONS, IDLE_SECONDS
	$(BIN)/python -m bench idle --connections $${IDLE_CONNECTIONS:-10000} --seconds $${IDLE_SECONDS:-3600} --settle 60

fuzz: $(VENV)/dev.stamp ## random input for all that others send: FUZZ_EXAMPLES of each kind
	sh tests/system-tools.sh
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-3000} \
		$(BIN)/python -m pytest -m hypothesis -o timeout=7200 --numprocesses 2 --dist worksteal $(PYTEST_ARGS)

machine: $(VENV)/dev.stamp ## a cluster against a model, with kills, drains and crowds: MACHINE_STEPS, at random
	sh tests/system-tools.sh
	MACHINE_STEPS=$${MACHINE_STEPS:-10000} \
		$(BIN)/python -m pytest -rP tests/test_cluster_machine.py --numprocesses 2 --dist load $(PYTEST_ARGS)

drop-in: $(VENV)/dev.stamp ## ask kuiperbelt (`make bench-peers`) and ours the same, with one config.yml, print where they differ
	$(BIN)/python -m tests.dropin

upgrade: $(VENV)/dev.stamp ## a rolling upgrade from another revision's code to this: FROM=REVISION
	sh tests/system-tools.sh
	UPGRADE_FROM=$${FROM:?expected FROM=, a revision of git} $(BIN)/python -m pytest tests/test_rolling_upgrade.py $(PYTEST_ARGS)

image: $(VENV)/dev.stamp ## do the Dockerfile's steps, pip's too, and run what comes of them; needs the network
	sh tests/system-tools.sh
	DEPLOY_WHOLE=1 $(BIN)/python -m pytest -o timeout=300 -k "unit_runs or image" tests/test_deployment.py $(PYTEST_ARGS)

debug: $(VENV)/dev.stamp ## run all tests with asyncio's debug mode and Python's development mode, in the servers too
	sh tests/system-tools.sh
	PYTHONASYNCIODEBUG=1 PYTHONDEVMODE=1 PYTHONMALLOC=pymalloc \
		$(BIN)/python -m pytest -o timeout=300 --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

coverage: $(VENV)/dev.stamp ## run all tests, show which lines of the test process's own imports they reach
	sh tests/system-tools.sh
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

lint: $(VENV)/dev.stamp ## check style, formatting, types and known unsafe calls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive proxy kbproject manage.py

audit: $(VENV)/bin/python ## ask the public database of advisories about the pinned packages; needs the network
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	for file in requirements requirements-tracing examples/chat/requirements requirements-dev; do \
		$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r $$file.txt || exit 1; \
	done

format: $(VENV)/dev.stamp ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## measure speed beside the peers that are installed, write docs/performance.md's tables, .json and .svg
	$(BIN)/python -m bench --write $(BENCH_ARGS)

bench-peers: ## install the peers: kuiperbelt, nchan, Centrifugo, Pushpin
	sh bench/install-peers.sh

bench-cluster: $(VENV)/dev.stamp ## measure two processes and Redis, write their tables and the model of docs/scaling.md
	$(BIN)/python -m bench cluster --write $(BENCH_ARGS)

demo: run ## the same as `make run`

docs: $(VENV)/dev.stamp ## write the tables of docs/ that are made from the code
	$(BIN)/python -m tests.reference

lock: $(VENV)/run.stamp ## pin the newest versions that requirements*.in allow
	$(BIN)/pip install --quiet pip-tools
	for file in requirements requirements-tracing examples/chat/requirements requirements-dev; do \
		CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-strip-extras \
			--no-emit-index-url --no-emit-trusted-host --no-emit-options -o $$file.txt $$file.in || exit 1; \
	done

clean: ## remove the virtual environment, caches, the embedded database and its key
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov kuiperbelt.sqlite3 kuiperbelt.key
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); choose one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/run.stamp: requirements.txt examples/chat/requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r examples/chat/requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
