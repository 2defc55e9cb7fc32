# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# Waiting for a roll-out: how far each Deployment is, why a pod is not ready and what to do about it.
#
# A roll-out is given up after TIMEOUT, or before, when a reason that does not pass by itself has
# stood for `patience` seconds.

# shellcheck disable=SC2034 # used by inspect
patience=20

# $scratch/workloads: name|kind|seen|desired|all|updated|available|complaint, a line a Deployment or DaemonSet; `seen` is
# whether the controller has seen the last change.
read_workloads() {
  local template
  template='{{range .items}}{{.metadata.name}}|{{.kind}}|{{with .status}}{{.observedGeneration}}{{else}}<no value>{{end}} {{.metadata.generation}}|{{if eq .kind "DaemonSet"}}{{with .status}}{{.desiredNumberScheduled}}|{{.currentNumberScheduled}}|{{.updatedNumberScheduled}}|{{.numberAvailable}}{{else}}|||{{end}}{{else}}{{if eq (printf "%v" .spec.replicas) "<nil>"}}1{{else}}{{.spec.replicas}}{{end}}|{{with .status}}{{.replicas}}|{{.updatedReplicas}}|{{.availableReplicas}}{{else}}||{{end}}{{end}}|{{with .status}}{{range .conditions}}{{if and (eq .type "ReplicaFailure") (eq .status "True")}}{{.message}}{{end}}{{end}}{{end}}
{{end}}'
  k_quiet get deployments.apps,daemonsets.apps -n "$NAMESPACE" -l "$ours" -o go-template="$template" >"$scratch/answer" ||
    return 1
  sed 's/<no value>/0/g' "$scratch/answer" >"$scratch/workloads"
}

# $scratch/trouble: pod|app|container|reason|restarts|image|message for everything that keeps a pod from being ready.
read_trouble() {
  local template
  # shellcheck disable=SC2016 # the dollar signs are the template's
  template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{$pod := .metadata.name}}{{$app := "?"}}{{with .metadata.labels}}{{with index . "app.kubernetes.io/name"}}{{$app = .}}{{end}}{{end}}{{with .status}}{{range .conditions}}{{if and (eq .type "PodScheduled") (eq .status "False")}}{{$pod}}|{{$app}}||Unschedulable|0||{{.message}}
{{end}}{{end}}{{range .initContainerStatuses}}{{$name := .name}}{{$restarts := .restartCount}}{{$image := .image}}{{with .state}}{{with .waiting}}{{$pod}}|{{$app}}|{{$name}}|{{.reason}}|{{$restarts}}|{{$image}}|{{with .message}}{{.}}{{end}}
{{end}}{{end}}{{end}}{{range .containerStatuses}}{{$name := .name}}{{$restarts := .restartCount}}{{$image := .image}}{{with .state}}{{with .waiting}}{{$pod}}|{{$app}}|{{$name}}|{{.reason}}|{{$restarts}}|{{$image}}|{{with .message}}{{.}}{{end}}
{{end}}{{end}}{{end}}{{end}}{{end}}{{end}}'
  k_quiet get pods -n "$NAMESPACE" -l "$ours" -o go-template="$template" |
    grep -Ev '\|(PodInitializing|ContainerCreating)\|' >"$scratch/trouble" || true
}

# Returns when every workload runs what was applied; ends the command when that does not come.
await_rollout() {
  local deadline started stuck_since=0
  started=$(now)
  deadline=$((started + TIMEOUT))
  : >"$scratch/told"
  while :; do
    if read_workloads; then
      if is_rolled_out; then
        say "rolled out in $(($(now) - started)) s"
        return 0
      fi
      read_trouble
      tell_trouble
      if is_hopeless; then
        [ "$stuck_since" -ne 0 ] || stuck_since=$(now)
        [ $(($(now) - stuck_since)) -lt "$patience" ] || break
      else
        stuck_since=0
      fi
    else
      progress "the API server does not answer: $(complaint "$scratch/stderr")"
    fi
    [ "$(now)" -lt "$deadline" ] || break
    sleep 1
  done
  give_up $(($(now) - started))
}

# Prints one line on how far all of it is; true when nothing is left to wait for.
is_rolled_out() {
  local name seen desired all updated available done=yes line=
  [ -s "$scratch/workloads" ] || return 1
  while IFS='|' read -r name _ seen desired all updated available _; do
    line="$line${line:+, }$name ${available:-0}/${desired:-0}"
    if [ "${seen% *}" -lt "${seen#* }" ] || [ "${updated:-0}" -lt "${desired:-0}" ]; then
      line="$line (${updated:-0} new)" done=
    elif [ "${available:-0}" -lt "${desired:-0}" ] || [ "${all:-0}" -gt "${updated:-0}" ]; then
      done=
    fi
  done <"$scratch/workloads"
  progress "ready: $line"
  [ -n "$done" ]
}

# Each reason once, with its remedy.
tell_trouble() {
  local pod app container reason image message name complaint
  while IFS='|' read -r pod app container reason _ image message; do
    tell_once "$app${container:+/$container}|$reason" "$pod${container:+ ($container)}: $reason${message:+, $(one_line "$message")}; $(remedy_for "$reason" "$message" "$app" "$container" "$image")"
  done <"$scratch/trouble"
  while IFS='|' read -r name _ _ _ _ _ _ complaint; do
    [ -z "$complaint" ] ||
      tell_once "$name|quota" "$name: $(one_line "$complaint"); $(remedy_for ReplicaFailure "$complaint" "$name" "")"
  done <"$scratch/workloads"
}

tell_once() {
  if ! grep -Fxq -- "$1" "$scratch/told"; then
    printf '%s\n' "$1" >>"$scratch/told"
    printf '  ! %s\n' "$2"
  fi
}

# $1 reason, $2 message, $3 app, $4 container, $5 image.
remedy_for() {
  case "$1" in
    ErrImagePull | ImagePullBackOff | ErrImageNeverPull | InvalidImageName) image_remedy "${5:-}" ;;
    CrashLoopBackOff | RunContainerError | StartError)
      printf 'its last words: make logs APP=%s%s' "$3" "${4:+ CONTAINER=$4}" ;;
    CreateContainerConfigError | CreateContainerError)
      printf 'kubectl describe pods -n %s -l app.kubernetes.io/name=%s tells more' "$NAMESPACE" "$3" ;;
    Unschedulable)
      case "$2" in
        *nsufficient*) printf 'give the cluster more room (the whole mesh fits 1 CPU and 512 MiB), or remove other pods' ;;
        *taint*) printf 'add a node for pods (minikube node add; kubeadm join), or choose another CONTEXT' ;;
        *) printf 'kubectl describe nodes tells more' ;;
      esac
      ;;
    *)
      case "$2" in
        *"exceeded quota"*) quota_remedy "$2" ;;
        *PodSecurity*) printf 'the namespace enforces more than the manifests promise: see its labels pod-security.kubernetes.io/enforce' ;;
        *) printf 'kubectl describe pods -n %s tells more' "$NAMESPACE" ;;
      esac
      ;;
  esac
}

# Reasons that no waiting removes: a crash counts when the pod has been restarted several times, as one may pass.
is_hopeless() {
  grep -Eq '\|(ErrImageNeverPull|ImagePullBackOff|InvalidImageName|CreateContainerConfigError)\|' "$scratch/trouble" ||
    grep -Eq '\|(CrashLoopBackOff|RunContainerError|StartError)\|([4-9]|[0-9]{2,})\|' "$scratch/trouble"
}

# What a user needs to see where a roll-out did not come to its end. $1: seconds waited.
give_up() {
  local name desired updated available missing='' pod app container reason image message why=''
  [ -s "$scratch/workloads" ] || die "no Deployment of ours is in namespace $NAMESPACE" "was it deleted meanwhile? make deploy again"
  while IFS='|' read -r name _ _ desired _ updated available _; do
    if [ "${available:-0}" -lt "${desired:-0}" ] || [ "${updated:-0}" -lt "${desired:-0}" ]; then missing="$missing $name"; fi
  done <"$scratch/workloads"
  printf '\nwarnings of the last minutes:\n' >&2
  k get events -n "$NAMESPACE" --field-selector type=Warning --sort-by=.lastTimestamp \
    -o go-template='{{range .items}}  {{.involvedObject.name}}: {{.reason}}: {{.message}}
{{end}}' 2>/dev/null | tail -n 8 >&2 || true
  last_words "$missing"
  local remedy="make status shows the pods, make deploy TIMEOUT=600 waits longer, make undeploy removes everything"
  if IFS='|' read -r pod app container reason _ image message <"$scratch/trouble"; then
    why=" ($pod: $reason)" remedy="$(remedy_for "$reason" "$message" "$app" "$container" "$image"); then make deploy again, or make undeploy"
  fi
  printf '\n' >&2
  die "not rolled out after $1 s:${missing:- nothing is missing, but old pods have not ended}$why" "$remedy"
}

# What a container says that crashes, else the first app that is not ready. $1: names of those.
last_words() {
  local first pod app container names
  first=$(grep -E '\|(CrashLoopBackOff|RunContainerError|StartError)\|' "$scratch/trouble" | head -n 1) || true
  if [ -n "$first" ]; then
    IFS='|' read -r pod app container _ <<<"$first"
    printf '\nlast words of %s (%s):\n' "$pod" "$container" >&2
    { k logs -n "$NAMESPACE" "$pod" -c "$container" --tail 30 --previous 2>/dev/null ||
      k logs -n "$NAMESPACE" "$pod" -c "$container" --tail 30 2>&1 || true; } | sed 's/^/  /' >&2
    return
  fi
  read -r -a names <<<"$1"
  [ ${#names[@]} -gt 0 ] || return 0
  app=${names[0]}
  printf '\nlast words of %s:\n' "$app" >&2
  k logs -n "$NAMESPACE" -l "$ours,app.kubernetes.io/name=$app" --all-containers --prefix --tail 5 2>/dev/null | sed 's/^/  /' >&2 || true
}
