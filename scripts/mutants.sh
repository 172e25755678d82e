#!/usr/bin/env bash
# The modules, or all that pyproject.toml lists in [tool.runicorn.mutants]: scripts/mutants.sh [MODULE...]
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/python scripts/mutants.py "$@"
echo "the mutants took ${SECONDS} s"
