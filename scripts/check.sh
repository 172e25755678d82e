#!/usr/bin/env bash
# Lint, format and types of all the code.
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy src testbed benchmarks demo fuzz scripts tests examples docs/conf.py
