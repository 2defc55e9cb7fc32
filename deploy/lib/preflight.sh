# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# Everything that can be known before the first write, in the order in which a user would fix it.

preflight_command() {
  case "${1:-cluster}" in
    cluster)
      preflight_cluster
      preflight_deploy
      if read_images; then
        ready_images
        prepare_files
        say "ready: make deploy"
      else
        # shellcheck disable=SC2034 # used by load
        build=yes
        prepare_load
        check_build
        say "ready but for the images, which make deploy builds"
      fi
      ;;
    containers | k3s) preflight_docker "$1" ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

# What holds for a cluster whatever is deployed there.
preflight_cluster() {
  have curl || die "curl is missing" "install it (Debian: apt-get install curl)"
  connect
  refuse_production
  check_version
  read_nodes
  choose_overlay
  say "context:   $context"
  say "server:    $server (Kubernetes $server_version, $cluster_kind)"
  say "namespace: $NAMESPACE"
  say "overlay:   $OVERLAY"
  check_nodes
}

# What can be known of this deploy without the images.
preflight_deploy() {
  choose_architecture
  read_namespace
  [ "$namespace_state" != terminating ] || await_namespace_gone
  read_images || : >"$scratch/images"
  prepare_files
  check_permissions
  check_ports
  check_quota
}

# What will be applied, with the images as the list names them.
prepare_files() {
  [ "$namespace_state" != foreign ] ||
    say "the namespace $NAMESPACE was there before the mesh: it gets no quota and no default limits, which would hold for all of its pods"
  write_overlay "$namespace_state"
  render
  check_version "$scratch/rendering.yaml"
}

# Docker for the test-suites that start containers themselves. They need its socket; the client is not used.
preflight_docker() {
  local socket=${DOCKER_HOST:-unix:///var/run/docker.sock} what=$1
  local remedy="install and start it (Debian: apt-get install docker.io && systemctl start docker; macOS: Docker Desktop or colima)"
  have curl || die "curl is missing" "install it (Debian: apt-get install curl)"
  case "$socket" in
    unix://*)
      local path=${socket#unix://}
      if [ ! -e "$path" ] && [ -e "$HOME/.docker/run/docker.sock" ]; then path=$HOME/.docker/run/docker.sock; fi
      [ -e "$path" ] || die "Docker is missing or not running: there is no $path" "$remedy; make e2e needs no Docker"
      [ -w "$path" ] || die "Docker's socket $path is not yours to use" "add yourself to its group (sudo usermod -aG docker \$USER, then log in again), or run this with sudo"
      curl -fsS -m 10 --unix-socket "$path" http://docker/_ping >/dev/null 2>&1 ||
        die "Docker does not answer at $path" "start it (systemctl start docker; macOS: open Docker Desktop); make e2e needs no Docker"
      ;;
    tcp://*)
      curl -fsS -m 10 --noproxy '*' "http://${socket#tcp://}/_ping" >/dev/null 2>&1 ||
        note "Docker at $socket does not answer plain HTTP; if it speaks TLS, that is as it should be"
      ;;
  esac
  say "Docker answers: ready for make e2e-$what"
}

namespace_state= # absent, ours, foreign (somebody else's: used, but neither changed nor deleted) or terminating

read_namespace() {
  local template answer problem
  template='{{with .status}}{{.phase}}{{end}}|{{with .metadata.deletionTimestamp}}deleted{{end}}|{{with .metadata.labels}}{{index . "app.kubernetes.io/part-of"}}{{end}}'
  if answer=$(k_quiet get namespace "$NAMESPACE" -o go-template="$template"); then
    case "$answer" in
      Terminating* | *"|deleted|"*) namespace_state=terminating ;;
      *"|petmesh") namespace_state=ours ;;
      *) namespace_state=foreign ;;
    esac
    return
  fi
  problem=$(complaint "$scratch/stderr")
  case "$problem" in
    *"not found"*) namespace_state=absent ;;
    *nauthorized* | *"must be logged in"*)
      die "$server does not accept the credentials of the context $context: $problem" "renew them, or choose another CONTEXT" ;;
    *orbidden* | *"cannot get"*) namespace_state=foreign ;;
    *) die "the namespace $NAMESPACE cannot be read: $problem" "see that the API server is well: kubectl get namespaces" ;;
  esac
}

# What still holds a namespace that is being deleted, as its conditions tell it.
namespace_holds() {
  k_quiet get namespace "$NAMESPACE" -o go-template='{{with .status}}{{range .conditions}}{{if eq .status "True"}}{{.message}} {{end}}{{end}}{{end}}{{with .spec}}{{with .finalizers}}finalizers {{.}}{{end}}{{end}}{{with .metadata.finalizers}} finalizers {{.}}{{end}}' || true
}

# A namespace on its way out takes no new objects; usually it is gone in seconds.
await_namespace_gone() {
  local deadline holds wait=60
  [ "$TIMEOUT" -ge "$wait" ] || wait=$TIMEOUT
  deadline=$(($(now) + wait))
  while [ "$namespace_state" = terminating ]; do
    if [ "$(now)" -ge "$deadline" ]; then
      holds=$(namespace_holds)
      die "namespace $NAMESPACE is still being deleted after $wait s, held by: ${holds:-nothing that the API names}" \
        "whoever set those finalizers has to finish (kubectl describe namespace $NAMESPACE tells who), or choose another NAMESPACE"
    fi
    progress "namespace $NAMESPACE is being deleted; waiting at most $wait s"
    sleep 1
    read_namespace
  done
}
