#!/usr/bin/env bash
# Checks the built images: `deploy/images/check.sh [NAME]...`, all in the list when none is named. Run by CI after `make images`.
#
# Of each archive: what is in it, who runs it, size, that assembling it again gives the same bytes and the same tag. Then Docker loads it and
# starts it as Kubernetes does under Pod Security "restricted": not as root, read-only root, no capabilities, no network. Without Docker
# that part is left out with WITHOUT_DOCKER=1, and a failure otherwise. MAX_BYTES as for build.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

images=${CARGO_TARGET_DIR:-target}/images
work=$(mktemp -d)
container=petmesh-check-$$

main() {
  [ -f "$images/list" ] || fail "there is no $images/list: run make images first"
  if [ -z "${WITHOUT_DOCKER:-}" ]; then
    deploy/images/docker.sh || fail "the images were not checked; WITHOUT_DOCKER=1 checks what can be checked without Docker"
  fi
  local names=("$@") name image
  if [ $# -eq 0 ]; then
    while IFS= read -r image; do
      name=${image#petmesh/}
      names+=("${name%:*}")
    done <"$images/list"
  fi
  for name in "${names[@]}"; do
    image=$(grep "^petmesh/$name:" "$images/list") || fail "$name: not in $images/list: run deploy/images/build.sh $name"
    holds_the_program_alone "$name" "$image"
    is_assembled_again_to_the_same "$name" "$image"
    if [ -z "${WITHOUT_DOCKER:-}" ]; then starts_restricted "$name" "$image"; fi
    echo "$image: ok"
  done
  if [ -n "${WITHOUT_DOCKER:-}" ]; then echo "not started: WITHOUT_DOCKER is set"; fi
}

holds_the_program_alone() {
  local name=$1 image=$2 digest layer line
  mkdir "$work/$name"
  tar -xf "$images/$name.tar" -C "$work/$name"
  digest=$(cd "$work/$name" && echo *.json | tr ' ' '\n' | grep -vx manifest.json)
  digest=${digest%.json}
  layer=$(cd "$work/$name" && echo *.tar)
  equal "$name: what the archive holds" "$(cd "$work/$name" && echo *)" "$(printf '%s\n' "$digest.json" "$layer" manifest.json | LC_ALL=C sort | xargs echo)"
  equal "$name: the tag" "$image" "petmesh/$name:${digest:0:12}"
  grep -qF "\"RepoTags\":[\"$image\"]" "$work/$name/manifest.json" || fail "$name: manifest.json does not name $image"
  for line in '"User": "65532:65532"' "\"Entrypoint\": [\"/$name\"]" "\"diff_ids\": [\"sha256:${layer%.tar}\"]"; do
    grep -qF "$line" "$work/$name/$digest.json" || fail "$name: the configuration does not say $line"
  done
  equal "$name: what the layer holds" "$(tar -tf "$work/$name/$layer")" "$name"
  line=$(tar --numeric-owner -tvf "$work/$name/$layer" | awk '{ print $1 }')
  equal "$name: the program's mode" "$line" -r-xr-xr-x
  tar -xf "$work/$name/$layer" -C "$work/$name"
}

# assemble.sh also refuses what is too large or not static.
is_assembled_again_to_the_same() {
  local again
  again=$(deploy/images/assemble.sh "$1" "$work/$1/$1" "$work/again.tar")
  equal "$1: the tag when it is assembled again" "$again" "$2"
  cmp "$work/again.tar" "$images/$1.tar" || fail "$1: the archive is another when it is assembled again"
}

starts_restricted() {
  local name=$1 image=$2 said
  docker load --quiet --input "$images/$name.tar" >/dev/null
  equal "$name: user and entrypoint in Docker" \
    "$(docker image inspect --format '{{.Config.User}} {{.Config.Entrypoint}} {{.Config.WorkingDir}}' "$image")" "65532:65532 [/$name] /"
  # Docker's limits are those of `restricted` and of the manifests.
  said=$(docker run --name "$container" --rm --pull never --read-only --cap-drop ALL --security-opt no-new-privileges --network none "$image" --version) ||
    fail "$name: does not start on a read-only root without network: docker run --rm --read-only --network none $image --version"
  equal "$name: its first word" "${said%% *}" "$name"
}

equal() {
  [ "$2" = "$3" ] || fail "$1: expected '$3', found '$2'"
}

fail() {
  echo "$*" >&2
  exit 1
}

trap 'rm -rf "$work"' EXIT
main "$@"
