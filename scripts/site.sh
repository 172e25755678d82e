#!/usr/bin/env bash
# Builds docs as a site; a warning is an error. Usage: scripts/site.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

"${PYTHON:-.venv/bin/python}" -m sphinx -b html -q -W --keep-going -d "${1:-build/site}/../.doctrees" docs "${1:-build/site}"
