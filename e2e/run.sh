#!/usr/bin/env bash
# Runs end-to-end tests and says at the end which of them ran and which did not, and why:
# `e2e/run.sh NAME COMMAND [ARGUMENT]...`.
#
# The tests append one line each to the file that E2E_REPORT names (e2e/src/report.rs); it is
# started empty. The exit code is the command's, or 1 if there is no report.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: e2e/run.sh NAME COMMAND [ARGUMENT]..." >&2
  exit 2
fi
name=$1
shift

fail() {
  echo "no report of $name: $*" >&2
  exit 1
}

folder=${CARGO_TARGET_DIR:-target}
mkdir -p "$folder" || fail "cannot create the folder $folder"
E2E_REPORT=$(cd "$folder" && pwd)/e2e-report-${name// /-}.tsv
export E2E_REPORT
: >"$E2E_REPORT" || fail "cannot write $E2E_REPORT"

code=0
"$@" || code=$?

# A test that starts several meshes has several lines.
[ -r "$E2E_REPORT" ] || fail "$E2E_REPORT is gone"
sort -u "$E2E_REPORT" | awk -F '\t' -v name="$name" '
  $1 == "ran" { ran[$2] = 1 }
  $1 == "skipped" { skipped[++skips] = $2; why[skips] = $3 }
  $1 == "part" { part[++parts] = $2; lacks[parts] = $3 }
  END {
    for (test in ran) runs++
    if (runs + skips == 0) exit 3
    printf "%s: ran %d, did not run %d\n", name, runs, skips
    for (i = 1; i <= skips; i++) printf "  did not run: %s: %s\n", skipped[i], why[i]
    for (i = 1; i <= parts; i++) printf "  ran in part: %s: %s\n", part[i], lacks[i]
  }' || { [ "$code" -ne 0 ] || fail "no test of a whole mesh has said that it ran, or why it did not"; }
exit "$code"
