#!/usr/bin/env bash
# A tour of the mesh: each step prints a command, what is expected of it, and what was observed. Called by `make demo`.
#
# Uses the running mesh, or starts one and stops it at the end. PETMESH is the program, built beforehand.
# Only what bash 3.2 has, for macOS. Exit code 0 when every step saw what it expected, else 1.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
petmesh=${PETMESH:-target/release/petmesh}
pets='[{"name":"Mififú","age":3},{"name":"Toby","age":5}]'
store='"name":"Amiguitos Mascotas","location":"Málaga"'
steps=0 wrong=0 ours=no

main() {
  [ -x "$petmesh" ] || { echo "$petmesh is not there: run 'make build' first" >&2; exit 1; }
  start_mesh
  ingress=http://$(address ingress-1):10000
  petstore=$(address petstore-1)
  pods=$("$petmesh" ps | awk '/^pet-[0-9]/ && $3 == "ready"' | wc -l | tr -d ' ')

  whole_path
  wrong_questions
  inside_the_mesh
  pods_come_and_go

  printf '\n%s steps, %s not as expected\n' "$steps" "$wrong"
  [ "$wrong" -eq 0 ]
}

whole_path() {
  title "Through ingress, two sidecars and two services"
  ask "$ingress/petstore/petstore/2?includePets=true" 200 "{$store,\"pets\":$pets}"
  title "Without the pets, nobody asks pet"
  ask "$ingress/petstore/petstore/2?includePets=false" 200 "{$store,\"pets\":[]}"
  title "The other service, by its own prefix"
  ask "$ingress/pet/pets?petStoreId=2" 200 "$pets"
}

wrong_questions() {
  title "A missing parameter is the client's fault, and the service says so"
  ask "$ingress/petstore/petstore/2" 400 includePets
  title "No route without the trailing slash: the ingress knows /pet/ and /petstore/"
  ask "$ingress/pet" 404
}

inside_the_mesh() {
  title "An app calls its own sidecar and names the service in Host"
  ask "http://$petstore:9900/pets?petStoreId=2" 200 "$pets" "Host: pet"
  title "A service that the sidecar has no cluster for"
  ask "http://$petstore:9900/" 503 "" "Host: nobody"
  title "What petstore's sidecar knows of pet"
  local command="curl -s 'http://$petstore:8081/clusters' | grep -c '^pet::.*::cx_active'"
  expect "$command" "$pods" "$(eventually hosts_of_pet "$pods")"
}

# The pods of pet as petstore's sidecar counts them.
hosts_of_pet() {
  curl -s --max-time 5 "http://$petstore:8081/clusters" | grep -c '^pet::.*::cx_active'
}

pods_come_and_go() {
  title "One more pod: Kubernetes, then discovery, then the sidecars hear of it"
  expect "$petmesh scale pet=$((pods + 1)), then the pods of pet at petstore's sidecar" \
    $((pods + 1)) "$(quietly "$petmesh" scale "pet=$((pods + 1))"; eventually hosts_of_pet $((pods + 1)))"
  title "One pod killed: the next try goes to another pod, and no request fails"
  local victim
  victim=$("$petmesh" ps | awk '/^pet-[0-9]/ && $3 == "ready" { last = $1 } END { print last }')
  quietly "$petmesh" kill "$victim"
  expect "$petmesh kill $victim, then 50 requests" "50 answered 200" "$(fifty_requests)"
  title "And back to $pods"
  expect "$petmesh scale pet=$pods, then the pods of pet at petstore's sidecar" \
    "$pods" "$(quietly "$petmesh" scale "pet=$pods"; eventually hosts_of_pet "$pods")"
}

fifty_requests() {
  local good=0
  for _ in $(seq 25); do
    [ "$(status "$ingress/petstore/petstore/2?includePets=true")" = 200 ] && good=$((good + 1))
    [ "$(status "$ingress/pet/pets?petStoreId=2")" = 200 ] && good=$((good + 1))
  done
  echo "$good answered 200"
}

start_mesh() {
  if "$petmesh" ps >/dev/null 2>&1; then
    echo "using the mesh that is running"
    return
  fi
  echo "\$ $petmesh up"
  "$petmesh" up >/dev/null || exit 1
  ours=yes
  trap 'if [ "$ours" = yes ]; then "$petmesh" down; fi' EXIT
}

address() {
  "$petmesh" ps | awk -v pod="$1" '$1 == pod { print $2 }'
}

title() {
  steps=$((steps + 1))
  printf '\n%s. %s\n' "$steps" "$1"
}

# ask URL STATUS [WORDS in the body] [HEADER]
ask() {
  local url=$1 code=$2 words=${3:-} header=${4:-} answer command="curl -i '$1'"
  if [ -n "$header" ]; then
    command="curl -i -H '$header' '$url'"
    answer=$(curl -s --max-time 10 -w '\n%{http_code}' -H "$header" "$url")
  else
    answer=$(curl -s --max-time 10 -w '\n%{http_code}' "$url")
  fi
  local observed_code=${answer##*$'\n'} body=${answer%$'\n'*}
  case "$observed_code $body" in
    "$code "*"$words"*) report "$command" "$code $words" "$observed_code $body" right ;;
    *) report "$command" "$code $words" "$observed_code $body" wrong ;;
  esac
}

# expect COMMAND EXPECTED OBSERVED
expect() {
  if [ "$2" = "$3" ]; then report "$1" "$2" "$3" right; else report "$1" "$2" "$3" wrong; fi
}

report() {
  printf '  $ %s\n  expected: %s\n  observed: %s\n' "$1" "$2" "$3"
  if [ "$4" = wrong ]; then
    wrong=$((wrong + 1))
    echo "  NOT AS EXPECTED (make logs POD=petstore-1 shows a log)"
  fi
}

status() {
  curl -s --max-time 10 -o /dev/null -w '%{http_code}' "$1"
}

quietly() {
  "$@" >/dev/null
}

# Asks until the answer is the wanted one, for at most 30 s; prints the last answer.
eventually() {
  local answer until=$((SECONDS + 30))
  while answer=$($1); [ "$answer" != "$2" ] && [ "$SECONDS" -lt "$until" ]; do sleep 0.2; done
  echo "$answer"
}

main
