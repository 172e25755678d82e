#!/usr/bin/env bash
# Builds docs as a site; all anew, a warning is an error. Usage: scripts/site.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-build/site}
.venv/bin/python -m sphinx -b html -E -a -q -W --keep-going -d "$folder/../.doctrees" docs "$folder"
