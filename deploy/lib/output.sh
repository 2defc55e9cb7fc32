# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# What a user reads: progress, notes and the one line of an error.
#
# Results (the curl of `url`, the tables of `status`) go to stdout, so that they can be piped;
# only `say` writes there, everything else goes to stderr.

# A step that was done, or that begins.
say() {
  printf '%s\n' "$*"
}

# Something to know that stops nothing, once.
note() {
  local text
  text=$(one_line "$*")
  case "$noted" in *"|$text|"*) return ;; esac
  noted="$noted|$text|"
  printf 'note: %s\n' "$text" >&2
}
noted=

# Ends the command: what is wrong, and what to do about it, in one line.
die() {
  printf 'error: %s; %s\n' "$(one_line "$1")" "$(one_line "$2")" >&2
  exit 1
}

# Texts of other programs on one line, without their own "error:".
one_line() {
  printf '%s' "$*" | tr '\n\t' '  ' | sed -E 's/  +/ /g; s/^(error|Error): //; s/[ ;.]+$//'
}

# What kubectl complained of, from a file with its stderr: the last line that is no warning, without its prefixes.
complaint() {
  sed -E -e '/^Warning:/d; /^[EWI][0-9]{4} /d; /^ *$/d' -e 's/^(error|Error|Unable to connect to the server): //' \
    -e 's/^Error from server( \(([A-Za-z]+)\))?: (error when [a-z]+ "[^"]*": )?//' "$1" | tail -n 1
}

# Repeats a line only when it differs from the one before: progress that can be read in a log.
progress() {
  if [ "$*" != "$last_progress" ]; then
    last_progress=$*
    printf '  %s\n' "$*"
  fi
}
last_progress=

# Whether a program is there; words after the first are its arguments.
have() {
  command -v "$1" >/dev/null 2>&1
}

# Seconds since the epoch; bash 3.2 has no better clock, and SECONDS starts anew in subshells.
now() {
  date +%s
}

# "1 pod", "2 pods"; $3: the plural where it is another.
count_of() {
  if [ "$1" -eq 1 ]; then printf '1 %s' "$2"; else printf '%s %s' "$1" "${3:-$2s}"; fi
}

# A folder for files that end with the command.
scratch=
make_scratch() {
  [ -z "$scratch" ] || return 0
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/petmesh.XXXXXX") || die "no temporary folder can be made" "set TMPDIR to one that can be written"
  trap clean_scratch EXIT
}

clean_scratch() {
  [ -z "$scratch" ] || rm -rf "$scratch"
}
