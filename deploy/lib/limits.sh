# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# What the cluster may refuse: permissions, node ports that others hold, quotas that are too small.

check_permissions() {
  local kind resource verb answer where
  # Who may do everything is asked once.
  if answer=$(k_quiet auth can-i '*' '*' --all-namespaces) && [ "${answer%% *}" = yes ]; then return 0; fi
  case "$(cat "$scratch/stderr")" in
    *nauthorized* | *"must be logged in"*)
      die "$server does not accept the credentials of the context $context" "renew them, or choose another CONTEXT" ;;
  esac
  # shellcheck disable=SC2013 # words
  for kind in $(cut -d' ' -f2 "$scratch/objects" | sort -u); do
    resource=$(resource_of "$kind")
    where="-n $NAMESPACE"
    case "$kind" in Namespace | Cluster*) where=--all-namespaces ;; esac
    for verb in create patch; do
      # shellcheck disable=SC2086 # two words
      answer=$(k_quiet auth can-i "$verb" "$resource" $where) || true
      if [ "${answer%% *}" = no ]; then
        die "with the context $context you may not $verb $resource in namespace $NAMESPACE" \
          "ask the cluster's administrator for the role admin there (and a namespace made by them: NAMESPACE=name), or choose another CONTEXT"
      fi
    done
  done
}

# A node port that the manifests fix and another Service has. Without the right to see all Services the dry run tells.
check_ports() {
  local port taken template
  # shellcheck disable=SC2016 # the dollar sign is the template's
  template='{{range .items}}{{$of := printf "%s/%s" .metadata.namespace .metadata.name}}{{range .spec.ports}}{{with .nodePort}}{{.}} {{$of}}
{{end}}{{end}}{{end}}'
  k_quiet get services --all-namespaces -o go-template="$template" >"$scratch/ports" || return 0
  # shellcheck disable=SC2013 # words
  for port in $(sed -nE 's/^ +(- )?nodePort: ([0-9]+)$/\2/p' "$scratch/rendering.yaml"); do
    taken=$(sed -nE "s#^$port (.*)\$#\\1#p" "$scratch/ports" | grep -v "^$NAMESPACE/" | head -n 1) || true
    [ -z "$taken" ] || die "node port $port is taken by the Service $taken" "let the cluster choose another: OVERLAY=generic"
  done
}

# Compares what all pods and one surge pod of each Deployment need with what the quotas of the namespace leave.
check_quota() {
  case "$namespace_state" in absent | terminating) return 0 ;; esac
  # shellcheck disable=SC2016
  local template='{{range .items}}{{if not .spec.scopes}}{{if not .spec.scopeSelector}}{{$name := .metadata.name}}{{range $key, $value := .spec.hard}}quota {{$name}} {{$key}} {{$value}}
{{end}}{{end}}{{end}}{{end}}'
  k_quiet get resourcequotas -n "$NAMESPACE" -o go-template="$template" >"$scratch/quota" || return 0
  # Ours comes with the manifests, which are made to fit it; an older one is replaced by the deploy.
  local own short
  # shellcheck disable=SC2013 # words
  for own in $(awk '$2 == "ResourceQuota" { print $3 }' "$scratch/objects"); do
    grep -v "^quota $own " "$scratch/quota" >"$scratch/quota.others" || true
    mv "$scratch/quota.others" "$scratch/quota"
  done
  [ -s "$scratch/quota" ] || return 0
  pods_used >"$scratch/use"
  pods_needed >>"$scratch/use"
  short=$(cat "$scratch/use" "$scratch/quota" | awk "$quota_awk")
  [ -z "$short" ] || die "the quota is exceeded: $short (with the surge pods of a rolling update)" \
    "ask whoever set it for more, or, if that is you: kubectl edit resourcequota -n $NAMESPACE; or choose another NAMESPACE"
}

# What to do where pods exceed a quota. $1: what the API server said of it.
quota_remedy() {
  case "$1" in
    *"exceeded quota: petmesh,"*)
      printf 'give the mesh more room: the component deploy/components/larger-quota in an overlay, or at once: kubectl -n %s patch resourcequota petmesh --type merge -p %s' \
        "$NAMESPACE" "'{\"spec\":{\"hard\":{$(larger_quota)}}}'" ;;
    *) printf 'ask whoever set that quota for more, or, if that is you: kubectl edit resourcequota -n %s' "$NAMESPACE" ;;
  esac
}

# The amounts of deploy/components/larger-quota, as the fields of a JSON object.
larger_quota() {
  sed -nE 's/^ *((requests|limits)\.[a-z]+): "?([^" ]+)"?$/"\1":"\3"/p' "$root/deploy/components/larger-quota/kustomization.yaml" |
    tr '\n' ',' | sed 's/,$//'
}

# The containers that run side by side: the app's and the native sidecars.
containers_template='{{define "c"}}container {{with .resources}}{{with .requests}}{{or .cpu 0}} {{or .memory 0}}{{else}}0 0{{end}} {{with .limits}}{{or .cpu 0}} {{or .memory 0}}{{else}}0 0{{end}}{{else}}0 0 0 0{{end}}
{{end}}{{define "cs"}}{{range .containers}}{{template "c" .}}{{end}}{{range .initContainers}}{{if eq (printf "%v" .restartPolicy) "Always"}}{{template "c" .}}{{end}}{{end}}{{end}}'

# What other pods of the namespace use: those without our labels.
pods_used() {
  k_quiet get pods -n "$NAMESPACE" -l 'app.kubernetes.io/part-of!=petmesh' \
    -o go-template="$containers_template{{range .items}}pods 1
{{template \"cs\" .spec}}{{end}}" || true
}

# What our Deployments need: replicas, and what maxSurge adds (percentages round up).
pods_needed() {
  # shellcheck disable=SC2016
  k_quiet create --dry-run=client --validate=false -f "$scratch/rendering.yaml" \
    -o go-template="$containers_template"'{{if eq .kind "Deployment"}}deployment {{with .spec.replicas}}{{.}}{{else}}1{{end}} {{with .spec.strategy}}{{with .rollingUpdate}}{{with .maxSurge}}{{.}}{{else}}25%{{end}}{{else}}25%{{end}}{{else}}25%{{end}}
{{template "cs" .spec.template.spec}}{{end}}' || true
}

# Adds up CPU in millicores and memory in bytes, and names the first thing that a quota has too little of.
# shellcheck disable=SC2016 # awk's own variables
quota_awk='
function number(q) {
  if (q ~ /m$/) return q / 1000
  if (q ~ /Ki$/) return q * 1024
  if (q ~ /Mi$/) return q * 1048576
  if (q ~ /Gi$/) return q * 1073741824
  if (q ~ /Ti$/) return q * 1099511627776
  if (q ~ /k$/) return q * 1000
  if (q ~ /M$/) return q * 1000000
  if (q ~ /G$/) return q * 1000000000
  return q + 0
}
function shown(key, value) {
  if (key ~ /memory/) return sprintf("%dMi", int(value / 1048576 + 0.999))
  if (key ~ /cpu/) return sprintf("%dm", int(value * 1000 + 0.999))
  return value
}
$1 == "pods" { times = $2; need["pods"] += times }
$1 == "deployment" {
  surge = $3 + 0
  if ($3 ~ /%$/) { surge = $2 * $3 / 100; if (surge > int(surge)) surge = int(surge) + 1 }
  times = $2 + surge
  need["pods"] += times
}
$1 == "container" {
  need["requests.cpu"] += times * number($2)
  need["requests.memory"] += times * number($3)
  need["limits.cpu"] += times * number($4)
  need["limits.memory"] += times * number($5)
}
$1 == "quota" {
  key = $3
  if (key == "cpu" || key == "memory") key = "requests." key
  if (key in need && need[key] > number($4) + 0.0000001 && !told) {
    printf "%s allows %s of %s, and %s is needed", $2, shown(key, number($4)), $3, shown(key, need[key])
    told = 1
  }
}'
