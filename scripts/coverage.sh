#!/usr/bin/env bash
# Branch coverage of the modules in pyproject.toml, [tool.coverage.report]; fails below its fail_under in all.
set -euo pipefail
cd "$(dirname "$0")/.."

# The least that reaches all that any test of the journal, the transport, the client and the format reaches: chosen
# by coverage's contexts, with one file more where a module has its own.
tests=(tests/journal/test_{codecs,frames,head,sections*}.py)
tests+=(tests/manifest/test_{checks,codec,files,reader,rules}.py)
tests+=(tests/remote_storage/test_{client_api,diff,durability,fetch,journal_base,journal_changes,landing}.py)
tests+=(tests/remote_storage/test_{logs_ahead,mirror,names,pace,room,rung,selection,stopping,sync}.py)
tests+=(tests/remote_storage/test_{sync_places,sync_repair,verify,walk_doubts,workers}.py)
tests+=(tests/transport/test_{channel,contract,engine_faults,sharing,ssh,stream,window,wire}.py)
tests+=(tests/faults/test_failing_calls.py)

export COVERAGE_FILE=$PWD/build/coverage/data
rm -rf build/coverage
mkdir -p build/coverage
.venv/bin/pytest -q -n auto --dist loadscope --cov --cov-report= --cov-fail-under=0 "${tests[@]}"
failed=0
.venv/bin/coverage report --show-missing >build/coverage/report || failed=$?
cat build/coverage/report
wanted=$(sed -n 's/^fail_under = //p' pyproject.toml)
below=$(awk -v wanted="$wanted" '/%/ && $1 != "TOTAL" && $6 + 0 < wanted { print "  " $6 " " $1 }' build/coverage/report)
if [ -n "$below" ]; then printf 'below %s %% by itself:\n%s\n' "$wanted" "$below"; fi
echo "the coverage took ${SECONDS} s"
exit "$failed"
