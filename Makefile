PYTHON ?= python3
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo setup-fuzz setup-mutants demo test check docs site picture dist soak fuzz coverage mutants bench bench-full clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## install all that development needs into .venv and .venv-peers
	@scripts/setup.sh all

setup-demo:
	@scripts/setup.sh demo

demo: setup-demo  ## show a sync on this machine, with a server of its own
	@.venv/bin/python -m demo

test: setup  ## run every check and every test
	@scripts/test.sh

check: setup  ## lint, format and types
	@scripts/check.sh

docs: setup  ## write docs/cli.md anew from the help texts, docs/performance.md and its figures from its numbers
	@.venv/bin/python scripts/cli_reference.py
	@.venv/bin/python -m benchmarks.page

site: setup  ## build docs as a site, into build/site
	@scripts/site.sh

picture: setup  ## draw docs/img anew: what sync and status print
	@.venv/bin/python scripts/picture.py

dist: setup  ## build wheel and source archive, into dist
	@.venv/bin/python -m hatchling build -d dist

soak: setup  ## every fault at its full count, for 30 minutes at most; SOAK=300 for 300 seconds
	@scripts/soak.sh $(SOAK)

setup-fuzz:
	@scripts/setup.sh fuzz

fuzz: setup-fuzz  ## fuzz all decoders for 5 minutes; FUZZ=60 for 60 seconds
	@.venv/bin/python -m fuzz $(FUZZ)

coverage: setup  ## branch coverage of format, journal, SFTP, diff, transfer and install; fails below 97 %
	@scripts/coverage.sh

setup-mutants:
	@scripts/setup.sh mutants

mutants: setup-mutants  ## change the pure modules and count what no test notices; MUTANTS=journal/head for one
	@scripts/mutants.sh $(MUTANTS)

bench: setup  ## measure against rsync, rclone and lftp in less than ten minutes; options in BENCH
	@.venv/bin/python -m benchmarks $(BENCH)

bench-full: setup  ## measure all of docs/performance.md in two hours; BENCH=--minutes=50 leaves out the last
	@.venv/bin/python -m benchmarks --plan=full $(BENCH)

clean:  ## remove what was installed and cached here
	rm -rf .venv .venv-peers .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage dist build
	find src testbed tests benchmarks demo fuzz -name __pycache__ -type d -prune -exec rm -rf {} +
