.DEFAULT_GOAL := help
.PHONY: help setup train test test-long test-fast test-gpu mutants bench prove pictures images lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: ## install what is missing: system packages (as root), .venv
	@cluster/setup.sh

train: ## train on this machine, or on the cluster of RAY_ADDRESS; ARGS="key=value ..." overrides the quickstart
	@cluster/setup.sh train
	@.venv/bin/python -m cluster.quickstart $(ARGS)

test: ## everything CI runs; with a Docker Engine where one can be had; ARGS=--require-all fails what is skipped
	@cluster/setup.sh tests
	@cluster/with_docker.sh .venv/bin/python -m pytest -m "not long" -n 2 $(ARGS)

test-long: ## the rest: several hosts, a cluster that grows, an ordinary user, reproducible runs, the pool, dashboards, every task
	@cluster/setup.sh tests
	@cluster/with_docker.sh .venv/bin/python -m pytest -m long $(ARGS)

test-fast: setup ## the unit tests, without the few that take seconds each
	@.venv/bin/python -m pytest tests/unit -m "not long and not slow" -n 2

test-gpu: setup ## on a machine with a GPU: engine, weights, learner and the loop on one card, under five minutes
	@.venv/bin/python -m pytest tests/gpu tests/contract/learner/ranks/test_learner.py tests/unit/learner/model

mutants: setup ## change the most important code in small ways, one at a time: do the tests notice? ARGS="PART ..."
	@.venv/bin/python -m tests.mutants $(ARGS)

bench: setup ## speed against baselines measured in the same run, as tables with machine and versions
	@cluster/with_docker.sh .venv/bin/python -m tests.bench

prove: setup ## the recipe and its ablations as docs/results.md tells of them: hours, resumable
	@cluster/with_docker.sh .venv/bin/python -m tests.prove

pictures: setup ## docs/terminal.png and docs/report.png, of what a run left; ARGS="runs/quickstart"
	@.venv/bin/python -m tests.pictures $(ARGS)

images: setup ## the images of cluster/images, where a registry can be reached; ARGS="cpu cuda sandbox"
	@cluster/images/build.sh $(ARGS)

lint: setup ## ruff, and mypy where pyproject.toml says
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

clean: ## delete .venv and caches; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis .mutants *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
