# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# An address of the ingress that answers from here: a node port, else a port-forward in the background.
#
# Never the address of a LoadBalancer, which stays pending on most clusters. What is printed has
# been tried: `curl_command` is the very command that worked.

curl_command=
path='/petstore/petstore/2?includePets=true'

url_command() {
  have curl || die "curl is missing" "install it (Debian: apt-get install curl)"
  connect
  read_nodes
  find_address
  say "$curl_command"
}

find_address() {
  local port try candidate
  port=$(k_quiet get service ingress -n "$NAMESPACE" -o go-template='{{range .spec.ports}}{{if eq (printf "%v" .port) "80"}}{{with .nodePort}}{{.}}{{end}}{{end}}{{end}}') ||
    die "there is no mesh in namespace $NAMESPACE of $server: $(complaint "$scratch/stderr")" "make deploy"
  : >"$scratch/candidates"
  [ -z "$port" ] || candidates "$port" >"$scratch/candidates"
  # A port-forward that is there already is the address that was printed before.
  if forward_alive; then printf '127.0.0.1:%s\n' "$(sed -n 2p "$generated/port-forward")" >>"$scratch/candidates"; fi
  # New rules for a node port, and the ingress's first answer from sds, may take a moment.
  for try in 1 2 3; do
    while read -r candidate; do
      if answers "$candidate"; then return 0; fi
    done <"$scratch/candidates"
    [ -s "$scratch/candidates" ] || break
    [ "$try" -eq 3 ] || sleep 1
  done
  start_forward
}

# Where a node port may be reachable from here, one host:port a line.
candidates() {
  local address name mapped
  for address in $(node_addresses); do
    case "$address" in
      *:*) printf '[%s]:%s\n' "$address" "$1" ;;
      *) printf '%s:%s\n' "$address" "$1" ;;
    esac
  done
  case "$cluster_kind" in
    kind)
      # extraPortMappings decide the port on this machine.
      if have docker; then
        while IFS='|' read -r name _; do
          mapped=$(docker port "$name" "$1/tcp" 2>/dev/null </dev/null | sed -nE 's/.*:([0-9]+)$/\1/p' | head -n 1) || true
          [ -z "$mapped" ] || printf '127.0.0.1:%s\n' "$mapped"
        done <"$scratch/nodes"
      fi
      ;;
    minikube)
      if have minikube; then
        address=$(minikube -p "$cluster_name" ip 2>/dev/null </dev/null) || true
        [ -z "$address" ] || printf '%s:%s\n' "$address" "$1"
      fi
      ;;
  esac
  printf '127.0.0.1:%s\n' "$1"
}

# Whether pets come from there; keeps the command. An http_proxy of the user's must not stand between.
answers() {
  local url="http://$1$path"
  if [ -n "${http_proxy:-}${HTTP_PROXY:-}${all_proxy:-}${ALL_PROXY:-}" ]; then
    curl_command="curl --noproxy '*' '$url'"
  else
    curl_command="curl '$url'"
  fi
  curl -fsS --noproxy '*' -m 3 "$url" >"$scratch/answer" 2>"$scratch/curl" </dev/null && grep '"pets"' "$scratch/answer" >/dev/null
}

# $generated/port-forward: the process, its port, and which mesh it leads to.
forward_alive() {
  local pid port whose
  [ -f "$generated/port-forward" ] || return 1
  { read -r pid && read -r port && read -r whose; } <"$generated/port-forward" || return 1
  [ -n "$port" ] && [ "$whose" = "$context $NAMESPACE" ] && is_forward "$pid"
}

# Process ids are used again: only one that still is a port-forward counts.
is_forward() {
  local words
  words=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") 2>/dev/null || words=$(ps -p "$1" -o args= 2>/dev/null) || true
  case "$words" in
    *port-forward*) return 0 ;;
    *) return 1 ;;
  esac
}

# False where there was none.
end_forward() {
  local pid rest=1 tries=0
  [ -f "$generated/port-forward" ] || return 1
  read -r pid <"$generated/port-forward" || true
  if [ -n "$pid" ] && is_forward "$pid"; then
    kill "$pid" 2>/dev/null || true
    rest=0
    while is_forward "$pid" && [ "$tries" -lt 50 ]; do
      sleep 0.1
      tries=$((tries + 1))
    done
  fi
  rm -f "$generated/port-forward" "$generated/port-forward.log"
  rmdir "$generated" 2>/dev/null || true
  return $rest
}

# A port-forward from the preferred port, or from any free one. It outlives this command and is used again.
start_forward() {
  local port local_port try
  end_forward || true
  mkdir -p "$generated"
  for port in "$PORT" ''; do
    local_port=$(forward_from "$port") || continue
    note "no node port answers from here, so a port-forward runs in the background (make undeploy ends it)"
    for try in 1 2 3 4 5 6 7 8 9 10; do
      if answers "127.0.0.1:$local_port"; then return 0; fi
      # A port-forward ends with the pod that it leads to.
      forward_alive || break
      [ "$try" -eq 10 ] || sleep 1
    done
    end_forward || true
    die "the ingress does not answer with pets: $(answer_shown)" "make status shows which part is not ready, make logs APP=ingress why"
  done
  local problem
  problem=$(complaint "$generated/port-forward.log" 2>/dev/null) || true
  end_forward || true
  die "no address of the ingress answers from here, and no port-forward starts: ${problem:-kubectl did not tell why}" "make status shows whether the ingress is ready"
}

answer_shown() {
  if [ -s "$scratch/curl" ]; then tail -n 1 "$scratch/curl"; else head -c 200 "$scratch/answer"; fi
}

# Prints the local port when it listens. $1: the port wanted; empty: any.
forward_from() {
  local pid port tries=0 log=$generated/port-forward.log
  (
    trap '' HUP
    exec "${kubectl_words[@]}" --context "$context" port-forward -n "$NAMESPACE" service/ingress "$1:80"
  ) >"$log" 2>&1 </dev/null &
  pid=$!
  while [ "$tries" -lt 100 ]; do
    port=$(sed -nE 's/^Forwarding from 127\.0\.0\.1:([0-9]+) .*/\1/p' "$log" | head -n 1)
    if [ -n "$port" ]; then
      printf '%s\n%s\n%s\n' "$pid" "$port" "$context $NAMESPACE" >"$generated/port-forward"
      printf '%s' "$port"
      return 0
    fi
    kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.1
    tries=$((tries + 1))
  done
  kill "$pid" 2>/dev/null || true
  return 1
}
