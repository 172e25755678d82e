#!/usr/bin/env bash
# All tests of faults at their full count. Usage: scripts/soak.sh [SECONDS]; fails when it tried too little.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-1500}  # what is under way then may take some minutes to its end
RUNICORN_SOAK_END=$(($(date +%s) + seconds)) RUNICORN_SOAK_SLICE=$((seconds / 40)) \
  .venv/bin/pytest -n 2 --dist worksteal tests/faults
echo "the soak took ${SECONDS} s"
