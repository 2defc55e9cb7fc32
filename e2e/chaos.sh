#!/usr/bin/env bash
# Runs the chaos cases, the long ones too, and writes what they measured into docs/chaos.md:
# `e2e/chaos.sh COMMAND [ARGUMENT]...`, where the command runs the tests. `make chaos` calls it.
#
# E2E_TARGET names the environment, whose table in the document is replaced. With CHAOS_DOCUMENT
# another file is written; it needs the same two lines around the table. With CHAOS_KEEP=1 the cases
# that this run leaves out keep what they measured before: `CHAOS_KEEP=1 make chaos ARGS=clients`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${E2E_TARGET:-local}
document=${CHAOS_DOCUMENT:-docs/chaos.md}
begin="<!-- measured: $target -->" end="<!-- /measured: $target -->"

fail() {
  echo "no table of chaos cases: $*" >&2
  exit 1
}

for line in "$begin" "$end"; do
  grep -qxF -- "$line" "$document" || fail "$document lacks the line $line"
done
folder=${CARGO_TARGET_DIR:-target}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

code=0
E2E_CHAOS_LONG=1 CARGO_TARGET_DIR=$folder e2e/run.sh "chaos on $target" "$@" || code=$?

measured=$folder/chaos-$target.tsv
if [ -z "${CHAOS_KEEP:-}" ]; then : >"$measured"; fi
cat "$folder/e2e-report-chaos-on-$target.tsv" >>"$measured"

# A case and its twin have the same name; the last run of each counts.
awk -F '\t' '
  $1 == "chaos" {
    if (!($3 in seen)) names[++count] = $3
    seen[$3] = 1
    if ($4 == "twin") twin[$3] = $6 " of " $5
    else row[$3] = sprintf("%s | %s | %s | %s", $5, $6, $7, $8)
    if ($4 == "case") memory[$3] = $9
  }
  END {
    if (count == 0) exit 3
    print "| fault | requests | lost | last loss after, s | well again after, s | lost without the protection | memory, MiB |"
    print "| --- | --- | --- | --- | --- | --- | --- |"
    for (i = 1; i <= count; i++) {
      name = names[i]
      if (!(name in row)) row[name] = "- | - | - | -"
      if (!(name in twin)) twin[name] = "-"
      if (!(name in memory)) memory[name] = "-"
      printf "| %s | %s | %s | %s |\n", name, row[name], twin[name], memory[name]
    }
  }' "$measured" >"$folder/chaos-table.md" || fail "no case has measured anything"
cat "$folder/chaos-table.md"

awk -v begin="$begin" -v end="$end" -v table="$folder/chaos-table.md" '
  $0 == end { inside = 0 }
  !inside { print }
  $0 == begin { inside = 1; print ""; while ((getline line <table) > 0) print line; print "" }
' "$document" >"$folder/chaos-document.md"
cat "$folder/chaos-document.md" >"$document"
echo "written: $document"
exit "$code"
