# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# status and logs: what runs, what does not and why, and what the pods say.

status_command() {
  local ready=yes
  connect
  say "context $context, server $server (Kubernetes $server_version), namespace $NAMESPACE"
  read_workloads || die "the Deployments of namespace $NAMESPACE cannot be read: $(complaint "$scratch/stderr")" "see that your credentials may list them"
  if [ ! -s "$scratch/workloads" ]; then
    die "there is no mesh in namespace $NAMESPACE" "make deploy; make ps shows the local mesh"
  fi
  show_workloads || ready=
  show_pods
  show_services
  show_refused
  [ -n "$ready" ] || die "not all is ready" "the reasons are above; make logs APP=name shows what a pod says"
  [ ! -s "$scratch/refused" ] ||
    die "$(count_of "$(($(wc -l <"$scratch/refused")))" "proxy refuses its configuration" "proxies refuse their configuration")" "$(refused_remedy)"
}

# Each proxy that serves on with an old configuration because it has refused the new one.
show_refused() {
  local pod container map problem
  read_refused || note "whether proxies have refused a configuration is not known, as their logs cannot be read: $(complaint "$scratch/stderr")"
  while IFS='|' read -r pod container map problem; do
    printf '! %s (%s): configuration refused%s: %s\n' "$pod" "$container" "${map:+, config map $map}" "$problem"
  done <"$scratch/refused"
}

show_workloads() {
  local name kind seen desired all updated available complaint state whole=yes
  printf '\n%-12s %-12s %-8s %s\n' NAME KIND READY STATE
  while IFS='|' read -r name kind seen desired all updated available complaint; do
    state=ready
    if [ "${seen% *}" -lt "${seen#* }" ] || [ "${updated:-0}" -lt "${desired:-0}" ] || [ "${all:-0}" -gt "${updated:-0}" ]; then
      state="rolling out" whole=
    elif [ "${available:-0}" -lt "${desired:-0}" ]; then
      state="not ready" whole=
    fi
    printf '%-12s %-12s %-8s %s\n' "$name" "$kind" "${available:-0}/${desired:-0}" \
      "$state${complaint:+: $complaint; $(remedy_for ReplicaFailure "$complaint" "$name" "")}"
  done <"$scratch/workloads"
  [ -n "$whole" ]
}

show_pods() {
  local template pod app container ready restarts reason image message
  # shellcheck disable=SC2016 # the dollar signs are the template's
  template='{{range .items}}{{$pod := .metadata.name}}{{$going := .metadata.deletionTimestamp}}{{$node := "-"}}{{with .spec.nodeName}}{{$node = .}}{{end}}{{with .status}}{{range .initContainerStatuses}}{{$pod}}|{{.name}}|{{.ready}}|{{.restartCount}}|{{if $going}}ending{{else}}{{with .state}}{{with .waiting}}{{.reason}}{{end}}{{with .terminated}}{{.reason}}{{end}}{{end}}{{end}}|{{.image}}|{{$node}}
{{end}}{{range .containerStatuses}}{{$pod}}|{{.name}}|{{.ready}}|{{.restartCount}}|{{if $going}}ending{{else}}{{with .state}}{{with .waiting}}{{.reason}}{{end}}{{with .terminated}}{{.reason}}{{end}}{{end}}{{end}}|{{.image}}|{{$node}}
{{end}}{{if not .containerStatuses}}{{$pod}}|-|false|0|{{.phase}}||{{$node}}
{{end}}{{end}}{{end}}'
  printf '\n%-28s %-10s %-6s %-9s %-20s %s\n' POD CONTAINER READY RESTARTS REASON IMAGE
  k_quiet get pods -n "$NAMESPACE" -l "$ours" -o go-template="$template" |
    while IFS='|' read -r pod container ready restarts reason image _; do
      printf '%-28s %-10s %-6s %-9s %-20s %s\n' "$pod" "$container" "$ready" "$restarts" "${reason:--}" "${image#docker.io/}"
    done || note "the pods cannot be listed: $(complaint "$scratch/stderr")"
  read_trouble
  while IFS='|' read -r pod app container reason _ image message; do
    printf '! %s%s: %s%s; %s\n' "$pod" "${container:+ ($container)}" "$reason" "${message:+, $(one_line "$message")}" \
      "$(remedy_for "$reason" "$message" "$app" "$container" "$image")"
  done <"$scratch/trouble"
}

# Each Service with its ready endpoints, as the slices have them.
show_services() {
  local template name port addresses
  # shellcheck disable=SC2016
  template='{{range .items}}{{$service := "-"}}{{with .metadata.labels}}{{with index . "kubernetes.io/service-name"}}{{$service = .}}{{end}}{{end}}{{range .endpoints}}{{$ready := true}}{{with .conditions}}{{if eq (printf "%v" .ready) "false"}}{{$ready = false}}{{end}}{{end}}{{if $ready}}{{$service}} {{index .addresses 0}}
{{end}}{{end}}{{end}}'
  k_quiet get endpointslices.discovery.k8s.io -n "$NAMESPACE" -o go-template="$template" >"$scratch/endpoints" || : >"$scratch/endpoints"
  printf '\n%-12s %-22s %s\n' SERVICE PORT "READY ENDPOINTS"
  template='{{range .items}}{{.metadata.name}}|{{range .spec.ports}}{{.port}}{{with .nodePort}}:{{.}}{{end}} {{end}}
{{end}}'
  k_quiet get services -n "$NAMESPACE" -l "$ours" -o go-template="$template" |
    while IFS='|' read -r name port; do
      addresses=$(sed -nE "s/^$name (.*)\$/\\1/p" "$scratch/endpoints" | sort -u | tr '\n' ' ')
      printf '%-12s %-22s %s\n' "$name" "$port" "${addresses:-none}"
    done || note "the Services cannot be listed: $(complaint "$scratch/stderr")"
}

# The logs of all pods of the mesh, or of one app (APP), of all containers or one (CONTAINER).
logs_command() {
  local selector=$ours found
  connect
  [ -z "$APP" ] || selector="$selector,app.kubernetes.io/name=$APP"
  found=$(k_quiet get pods -n "$NAMESPACE" -l "$selector" -o name) ||
    die "the pods of namespace $NAMESPACE cannot be listed: $(complaint "$scratch/stderr")" "see that your credentials may list them"
  if [ -z "$found" ]; then
    if [ -n "$APP" ]; then
      die "no pod of $APP is in namespace $NAMESPACE" "APP is one of pet, petstore, sds, ingress; make status shows what runs"
    fi
    die "there is no mesh in namespace $NAMESPACE" "make deploy; for the local mesh: make logs POD=pet-1"
  fi
  # shellcheck disable=SC2086 # words
  set -- logs -n "$NAMESPACE" -l "$selector" --prefix --max-log-requests 50 --tail "$TAIL"
  if [ -n "$CONTAINER" ]; then set -- "$@" -c "$CONTAINER"; else set -- "$@" --all-containers; fi
  if [ -n "$FOLLOW" ] && [ "$FOLLOW" != 0 ]; then
    trap 'exit 0' INT
    k_stream "$@" -f
  else
    k_quiet "$@" || die "the logs cannot be read: $(complaint "$scratch/stderr")" "make status shows which containers have started"
  fi
}
