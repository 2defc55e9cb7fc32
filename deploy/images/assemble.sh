#!/usr/bin/env bash
# Puts one static program into an image archive: assemble.sh NAME PROGRAM ARCHIVE; prints petmesh/NAME:TAG.
#
# The archive is what `docker save` writes: manifest.json, the configuration, one layer with one file. It is made of the program and of
# nothing else, neither a clock nor a machine's tar, so that the same program gives the same bytes and the same tag everywhere. An archive
# that is already there with these bytes is left untouched. Called by build.sh and check.sh; runs on Linux and macOS (bash 3.2).
#
# MAX_BYTES is how large a program may be; 0 switches that check off.
set -euo pipefail
export LC_ALL=C # a character is a byte

root=$(cd "$(dirname "$0")/../.." && pwd)
max_bytes=${MAX_BYTES:-20000000}
work=

main() {
  if [ $# -ne 3 ]; then
    echo "usage: assemble.sh NAME PROGRAM ARCHIVE" >&2
    exit 2
  fi
  local name=$1 program=$2 archive=$3 size architecture layer_digest config_digest
  [ -r "$program" ] || fail "$program is not there: build it first (deploy/images/build.sh $name)"
  architecture=$(architecture_of "$program")
  has_no_interpreter "$program" || fail "$program is not static: it asks for a dynamic loader, which an empty image does not have; \
build it with -C target-feature=+crt-static (deploy/images/build.sh does)"
  size=$(bytes_of "$program")
  if [ "$max_bytes" -gt 0 ] && [ "$size" -gt "$max_bytes" ]; then
    fail "$program has $size bytes, $max_bytes is the most: look for what grew (cargo tree -p $name), or set MAX_BYTES"
  fi

  # Beside the archive, so that the last step is a rename.
  work=$(mktemp -d "$archive.XXXXXX")
  {
    tar_header "$name" 0000555 "$size"
    cat "$program"
    padding "$size"
    zeros 1024
  } >"$work/layer"
  layer_digest=$(sha256 "$work/layer")
  config "$name" "$architecture" "$layer_digest" >"$work/config"
  config_digest=$(sha256 "$work/config")
  # The configuration names the layer by its digest, so its own digest covers both. Docker shows the same twelve digits as the image's ID.
  local image=petmesh/$name:${config_digest:0:12}
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s.tar"]}]\n' "$config_digest" "$image" "$layer_digest" >"$work/manifest"
  {
    tar_file "$config_digest.json" "$work/config"
    tar_file "$layer_digest.tar" "$work/layer"
    tar_file manifest.json "$work/manifest"
    zeros 1024
  } >"$work/archive"

  if ! cmp -s "$work/archive" "$archive"; then
    chmod 0644 "$work/archive"
    mv -f "$work/archive" "$archive"
  fi
  echo "$image"
}

# The image's configuration. deploy/images/Dockerfile says the same; crates/tidy compares them.
config() {
  local name=$1 architecture=$2 layer_digest=$3 created=1970-01-01T00:00:00Z licenses source version
  licenses=$(of_workspace license)
  source=$(of_workspace repository)
  version=$(of_workspace version)
  cat <<JSON
{
  "architecture": "$architecture",
  "os": "linux",
  "created": "$created",
  "config": {
    "User": "65532:65532",
    "WorkingDir": "/",
    "Entrypoint": ["/$name"],
    "Labels": {
      "org.opencontainers.image.licenses": "$licenses",
      "org.opencontainers.image.source": "$source",
      "org.opencontainers.image.title": "$name",
      "org.opencontainers.image.version": "$version"
    }
  },
  "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer_digest"]},
  "history": [{"created": "$created", "created_by": "deploy/images/assemble.sh", "comment": "/$name, static, and nothing else"}]
}
JSON
}

# A value of [workspace.package] in the root Cargo.toml.
of_workspace() {
  local value
  value=$(awk -F '"' -v key="$1" '/^\[/ { inside = $0 == "[workspace.package]" } inside && $1 == key " = " { print $2; exit }' "$root/Cargo.toml")
  [ -n "$value" ] || fail "Cargo.toml has no $1 in [workspace.package]: the image's labels need it"
  echo "$value"
}

# --- tar (POSIX ustar), by hand: no two machines' tar programs have the same options ---

# A file of the outer archive.
tar_file() {
  local size
  size=$(bytes_of "$2")
  tar_header "$1" 0000444 "$size"
  cat "$2"
  padding "$size"
}

# NAME MODE SIZE: the 512 bytes before a file that belongs to root and was changed in 1970.
tar_header() {
  local owner=0000000 changed=00000000000 size sum
  size=$(printf '%011o' "$3")
  # The checksum counts itself as eight spaces (256); '0' is the type of a plain file.
  sum=$((256 + $(sum_of "$1$2$owner$owner$size${changed}0ustar00")))
  printf '%s' "$1"
  zeros $((100 - ${#1}))
  printf '%s\0%s\0%s\0%s\0%s\0%06o\0 0' "$2" "$owner" "$owner" "$size" "$changed" "$sum"
  zeros 100 # no link
  printf 'ustar\00000'
  zeros 247 # no names of owners, no devices, no prefix
}

sum_of() {
  local text=$1 i sum=0 code
  for ((i = 0; i < ${#text}; i++)); do
    printf -v code '%d' "'${text:i:1}"
    sum=$((sum + code))
  done
  echo "$sum"
}

# Up to the next multiple of 512.
padding() { zeros $(((512 - $1 % 512) % 512)); }

zeros() { head -c "$1" /dev/zero; }

# --- ELF: read with od, which every system has; readelf and file may be absent ---

# amd64 or arm64, from e_machine.
architecture_of() {
  [ "$(od -A n -t x1 -N 6 "$1" | tr -d ' \n')" = 7f454c460201 ] || fail "$1 is not a 64-bit Linux program: it was built for another system"
  case $(number "$1" 18 2) in
    62) echo amd64 ;;
    183) echo arm64 ;;
    *) fail "$1 is for a processor that the images are not built for: amd64 and arm64 are" ;;
  esac
}

# True when no program header is PT_INTERP (3).
has_no_interpreter() {
  local start each count i
  start=$(number "$1" 32 8) each=$(number "$1" 54 2) count=$(number "$1" 56 2)
  for ((i = 0; i < count; i++)); do
    [ "$(number "$1" $((start + i * each)) 4)" -ne 3 ] || return 1
  done
}

# FILE OFFSET BYTES: a little-endian number, whatever the machine's own order.
number() {
  local byte value=0 shift=0
  for byte in $(od -A n -t u1 -j "$2" -N "$3" "$1"); do
    value=$((value + (byte << shift))) shift=$((shift + 8))
  done
  echo "$value"
}

# --- the rest ---

bytes_of() { wc -c <"$1" | tr -d ' '; }

sha256() {
  if command -v sha256sum >/dev/null; then
    sha256sum <"$1"
  else
    shasum -a 256 <"$1"
  fi | cut -d ' ' -f 1
}

fail() {
  echo "$*" >&2
  exit 1
}

trap '[ -z "$work" ] || rm -rf "$work"' EXIT
main "$@"
