#!/usr/bin/env bash
# Every check and every test, and how long they took.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/check.sh
.venv/bin/pytest -n auto --dist loadscope "$@"
echo "checks and tests took ${SECONDS} s"
