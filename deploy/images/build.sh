#!/usr/bin/env bash
# Builds the images: `deploy/images/build.sh [--check] [pet] [petstore] [proxy] [ingress] [sds]`, all five when none is named.
#
# Each image is one static program and nothing else, so that nothing has to be pulled. On Linux cargo builds the programs; elsewhere
# Docker does, with the Dockerfile beside this script. Writes images/NAME.tar below cargo's target directory, and images/list with
# petmesh/NAME:TAG of each archive, one a line. What has not changed is left untouched. Runs on Linux and macOS (bash 3.2).
# --check builds nothing and says what is missing to build.
#
# ARCH              amd64 or arm64: for which processor (this machine's)
# CARGO_TARGET_DIR  where cargo builds (target)
# PROFILE           release, or dev: built sooner, larger, for tests
# IMAGES_WITH       cargo or docker; by default cargo on Linux, docker elsewhere
# MAX_BYTES         how large a program may be (20000000; 0 for any size, as with PROFILE=dev)
set -euo pipefail

all=(pet petstore proxy ingress sds)
wanted=()
profile=${PROFILE:-release}
arch=${ARCH:-}
check=
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
container='' # the one that the programs are copied from

main() {
  parse "$@"
  mkdir -p "${CARGO_TARGET_DIR:-target}/images" 2>/dev/null || fail "cannot write to ${CARGO_TARGET_DIR:-target}: set CARGO_TARGET_DIR to a folder that you may write to"
  target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
  images=$target/images
  has_room
  if with_cargo; then
    preflight
    [ -n "$check" ] || build_with_cargo
  else
    [ "$profile" = release ] || fail "the Dockerfile builds release only: leave PROFILE out"
    deploy/images/docker.sh
    [ -n "$check" ] || build_with_docker
  fi
  [ -z "$check" ] || return 0

  local name image
  for name in "${wanted[@]}"; do
    image=$(deploy/images/assemble.sh "$name" "$programs/$name" "$images/$name.tar") || {
      has_room
      exit 1 # it has said why
    }
    keep "$name" "$image"
  done
  report
}

parse() {
  local word
  for word in "$@"; do
    case $word in
      -h | --help)
        sed -n '2,/^set/ { /^#/ s/^# \{0,1\}//p; }' deploy/images/build.sh
        exit 0
        ;;
      --check) check=yes ;;
      pet | petstore | proxy | ingress | sds) wanted+=("$word") ;;
      *) wrong_usage "there is no image '$word': ${all[*]} are the images" ;;
    esac
  done
  if [ ${#wanted[@]} -eq 0 ]; then wanted=("${all[@]}"); fi
  case $profile in
    release) ;;
    dev) export MAX_BYTES=${MAX_BYTES:-0} ;;
    *) wrong_usage "there is no PROFILE '$profile': release and dev are the profiles" ;;
  esac
  case $arch in
    '' | amd64 | arm64) ;;
    *) wrong_usage "ARCH is '$arch': images are built for amd64 and arm64" ;;
  esac
  case ${IMAGES_WITH:-} in
    '' | cargo | docker) ;;
    *) wrong_usage "IMAGES_WITH is '$IMAGES_WITH': cargo and docker are possible" ;;
  esac
}

with_cargo() {
  case ${IMAGES_WITH:-} in
    cargo) return 0 ;;
    docker) return 1 ;;
    *) [ "$(uname -s)" = Linux ] ;;
  esac
}

# A first static build writes about one gigabyte, a later one replaces some of it.
has_room() {
  local free needed=300
  if ! compgen -G "$images/*.tar" >/dev/null; then needed=2000; fi
  free=$(df -Pm "$images" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$needed" ] || fail "only $free MB are free in $images, $needed are needed: make room, or set CARGO_TARGET_DIR to another disk"
}

# --- cargo, on Linux ---

build_with_cargo() {
  local folder=$profile arguments=()
  if [ "$profile" = dev ]; then
    folder=debug
  else
    arguments+=(--release)
  fi
  # All packages are selected even when few programs are wanted: cargo unites the features that the selected ones ask of a dependency, and a
  # program's bytes must not depend on what else is built.
  local name
  for name in "${all[@]}"; do arguments+=(-p "$name"); done
  for name in "${wanted[@]}"; do arguments+=(--bin "$name"); done

  echo "building for $triple, static, $profile: ${wanted[*]} (the first time takes some minutes)"
  # With --target these flags are for the programs alone and not for build scripts; given here, they replace flags from elsewhere, which
  # would make other bytes and another tag of the same sources.
  env -u CARGO_ENCODED_RUSTFLAGS ${cross[@]+"${cross[@]}"} RUSTFLAGS='-C target-feature=+crt-static' CARGO_INCREMENTAL=0 \
    cargo build --locked --target "$triple" --target-dir "$target" "${arguments[@]}" || {
    has_room
    fail "cargo could not build the programs: its message is above"
  }
  programs=$target/$triple/$folder
}

# Sets `triple`, the target that cargo builds for, and for another processor than this machine's `cross`, the environment
# that names its tools.
triple='' cross=()
preflight() {
  local host compiler=cc packages="Debian: apt-get install gcc libc6-dev; Fedora: dnf install gcc glibc-static"
  command -v cargo >/dev/null || fail "cargo is missing: install Rust, see https://rustup.rs, or build with Docker (IMAGES_WITH=docker)"
  host=$(rustc -vV | sed -n 's/^host: //p')
  case ${arch:-$host} in
    amd64 | x86_64-unknown-linux-gnu) triple=x86_64-unknown-linux-gnu ;;
    arm64 | aarch64-unknown-linux-gnu) triple=aarch64-unknown-linux-gnu ;;
    *) fail "Rust builds for $host here, the images need x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu: build them with Docker (IMAGES_WITH=docker)" ;;
  esac
  if [ "$triple" != "$host" ]; then
    compiler=${triple/-unknown/}-gcc
    packages="Debian: apt-get install gcc-${triple/-unknown-linux-gnu/}-linux-gnu"
    packages=${packages/x86_64/x86-64}
    [ -d "$(rustc --print target-libdir --target "$triple")" ] ||
      fail "Rust's standard library for $triple is missing, which images for $arch need: rustup target add $triple, or build them on such a machine, or with Docker (IMAGES_WITH=docker)"
    local variable=${triple//-/_}
    cross=("CARGO_TARGET_$(tr '[:lower:]' '[:upper:]' <<<"$variable")_LINKER=$compiler" "CC_$variable=$compiler")
  fi
  command -v "$compiler" >/dev/null || fail "$compiler, a C compiler${arch:+ for $arch}, is missing: install it ($packages)"
  # The compiler answers with the bare name when it does not find the file.
  [ "$("$compiler" -print-file-name=libc.a)" != libc.a ] || fail "libc.a, the static C library, is missing: install it ($packages)"
  # Before 2.34 a static glibc loads its name service from shared libraries, which an empty image does not have.
  local glibc minor
  glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || glibc=unknown
  minor=${glibc#glibc 2.}
  case $minor in
    '' | *[!0-9]*) ;;
    *) [ "$minor" -ge 34 ] || fail "$glibc is too old: static programs look up names only from 2.34 on; build with Docker (IMAGES_WITH=docker)" ;;
  esac
}

# --- Docker, elsewhere ---

build_with_docker() {
  local platform=()
  [ -z "$arch" ] || platform=(--platform "linux/$arch")
  programs=$images/programs
  mkdir -p "$programs"
  local name id
  for name in "${wanted[@]}"; do
    echo "building with Docker: $name (the first time takes some minutes)"
    DOCKER_BUILDKIT=1 docker build ${platform[@]+"${platform[@]}"} --target "$name" --file deploy/images/Dockerfile --iidfile "$programs/$name.id" . ||
      fail "Docker could not build $name: its message is above"
    # Only the program is taken from Docker's image, so that archive and tag are those that cargo's program would get.
    id=$(cat "$programs/$name.id")
    container=$(docker create ${platform[@]+"${platform[@]}"} "$id")
    docker cp "$container:/$name" "$programs/$name"
    docker rm "$container" >/dev/null
    container=''
    # One that somebody has given a name stays.
    if [ "$(docker image inspect --format '{{len .RepoTags}}' "$id")" = 0 ]; then docker image rm "$id" >/dev/null; fi
  done
}

# --- the list ---

# Replaces the line of an image in the list; the others stay while their archives are there.
keep() {
  local name line
  for name in "${all[@]}"; do
    if [ "$name" = "$1" ]; then
      echo "$2"
    elif [ -f "$images/$name.tar" ] && line=$(grep "^petmesh/$name:" "$images/list" 2>/dev/null); then
      echo "$line"
    fi
  done >"$images/list.$$"
  if cmp -s "$images/list.$$" "$images/list"; then
    rm "$images/list.$$"
  else
    mv "$images/list.$$" "$images/list"
  fi
}

report() {
  local name image bytes
  echo "in $images:"
  for name in "${wanted[@]}"; do
    image=$(grep "^petmesh/$name:" "$images/list")
    bytes=$(wc -c <"$images/$name.tar")
    printf '  %-13s %5s MB  %s\n' "$name.tar" "$((bytes / 1000000)).$((bytes / 100000 % 10))" "$image"
  done
}

wrong_usage() {
  echo "$*" >&2
  exit 2
}

fail() {
  echo "$*" >&2
  exit 1
}

trap '[ -z "$container" ] || docker rm --force "$container" >/dev/null' EXIT
main "$@"
