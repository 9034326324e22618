# Every task of the project; `make` alone lists them. CI runs these targets and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?=
export PYTHON
ARGS ?=
BOOTSTRAP = setup/python setup/bootstrap.py
PYTEST = .venv/bin/python -m pytest
JOBS ?= 2
PROOFS = $(addprefix tests/pipeline/, test_exact_recording.py test_odd_beside.py \
	test_rtsp_recording.py test_rtsp_faults.py test_live_latency.py test_playback_ffprobe.py \
	test_detection_accuracy.py test_tracking.py test_motion_gate.py test_detect_beside.py \
	test_detect_program.py test_search_clips.py test_hold_race_postgres.py) \
	tests/web

.PHONY: help run test prove torture bench servers stack-test images alerts-test compose-test chart-test k8s-test chaos bench-stack lint docs lock clean

help: ## This list
	@echo "Lamppost. First time here: make run"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

run: ## Install what is needed and run everything on demo cameras (ARGS='--for 120s --json', '--footage DIR')
	@$(BOOTSTRAP) run
	@exec .venv/bin/python -m services demo $(ARGS)

test: ## Install what is needed; unit, contract, pipeline and tidy tests (ARGS='-k name')
	@$(BOOTSTRAP) test
	$(PYTEST) -m "not slow and not servers" -n $(JOBS) $(ARGS)

# With CI=true a proof that cannot run fails with its reason instead of being skipped.
prove: ## Recording, detection and search proved on real footage and on the wire (needs LAMPPOST_DATA; minutes)
	@$(BOOTSTRAP) test
	@node=$$(setup/node.sh) && PATH="$$node:$$PATH" CI=true $(PYTEST) $(PROOFS) $(ARGS)

torture: ## kill -9 at random moments, full disks, clock jumps (ARGS='--kills 100'; minutes)
	@$(BOOTSTRAP) test
	@exec .venv/bin/python -m tests.torture $(ARGS)

bench: ## Measure against peers, five interleaved rounds (ARGS='--small' for a check)
	@$(BOOTSTRAP) test
	@exec .venv/bin/python -m tests.bench $(ARGS)

servers: ## Kafka, PostgreSQL and SeaweedFS on this machine, for `lamppost run SERVICE` (until Ctrl-C)
	@$(BOOTSTRAP) test
	@exec .venv/bin/python -m tests.stack servers $(ARGS)

stack-test: ## The services apart on real servers that die under fifteen cameras (needs root or the servers; minutes)
	@$(BOOTSTRAP) test
	@exec $(PYTEST) -m stack tests/stack $(ARGS)

k8s-test: ## The chart on a real Kubernetes of one node and on pretended nodes (root; long the first time)
	@$(BOOTSTRAP) test
	@CI=true $(PYTEST) -m k8s tests/k8s $(ARGS)

chart-test: ## The Helm chart: every value set rendered, checked against schemas, judged (needs npm, Go; seconds)
	@$(BOOTSTRAP) test
	@exec $(PYTEST) -m "not images" tests/chart $(ARGS)

alerts-test: ## Each alert fires and stays quiet (promtool); each query on a real Prometheus (minutes)
	@$(BOOTSTRAP) test
	@CI=true $(PYTEST) tests/monitoring $(ARGS)

compose-test: ## docker-compose.yml brought up, driven to a hit, upgraded, restarted (needs root; minutes)
	@$(BOOTSTRAP) test
	@exec $(PYTEST) -m compose tests/compose $(ARGS)

chaos: ## Kills and outages at random for half an hour (ARGS='--minutes 30', '--minutes 0 --together 60 --each 10')
	@$(BOOTSTRAP) test
	@exec .venv/bin/python -m tests.stack chaos $(ARGS)

images: ## Build the container image and run it as Kubernetes would (root, Debian; minutes; ARGS='-m gpu': detect-gpu)
	@$(BOOTSTRAP) test
	@.venv/bin/python -m tests.support.containers build
	@exec $(PYTEST) -m "images and not gpu" tests/images $(ARGS)

bench-stack: ## Measure the services on real servers against peers (ARGS='--small', '--row upload')
	@$(BOOTSTRAP) test
	@exec .venv/bin/python -m tests.bench_stack $(ARGS)

lint: ## Format, lint and types
	@$(BOOTSTRAP) test
	.venv/bin/ruff format --check services shared setup tests
	.venv/bin/ruff check services shared setup tests
	.venv/bin/mypy services shared setup

docs: ## Write docs/ref/ and the chart's tables anew from the code
	@$(BOOTSTRAP) test
	.venv/bin/python -m services.docs_ref
	.venv/bin/python -m tests.chart.reference
	.venv/bin/python -m services.dashboards

lock: ## Write the lock files anew (ARGS=NAME upgrades one package)
	@$(BOOTSTRAP) tools
	setup/lock.sh $(ARGS)

clean: ## Remove what was installed and cached; recordings under .lamppost/ stay
	rm -rf .venv .tools .setup.lock .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache dist build
	find services shared setup tests -name __pycache__ -type d -prune -exec rm -rf {} +
