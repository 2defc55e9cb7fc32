#!/usr/bin/env bash
# The mesh on a Kubernetes cluster: deploy/mesh.sh {preflight|load|deploy|undeploy|url|status|logs|help}.
#
# For bash 3.2 (macOS) or newer. Every command can be run again: it does what is still to be done and says so. Whatever is
# missing is said in one line, `error: what; remedy`, with exit code 1 (2: wrong usage); all checks come before the first
# write. `help` lists the variables. Called by the Makefile; its parts are in deploy/lib, one file a subject.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What a user may set; see `usage`.
KUBECTL=${KUBECTL:-kubectl}
CONTEXT=${CONTEXT:-}
CONFIRM=${CONFIRM:-}
OVERLAY=${OVERLAY:-}
NAMESPACE=${NAMESPACE:-petmesh}
TIMEOUT=${TIMEOUT:-180}
IMAGES=${IMAGES:-}
PORT=${PORT:-8080}
APP=${APP:-}
CONTAINER=${CONTAINER:-}
FOLLOW=${FOLLOW:-}

# Where things lie. The folder of generated files can be set for tests, which run side by side.
# shellcheck disable=SC2034 # used by the parts
images_folder=${PETMESH_IMAGES:-${CARGO_TARGET_DIR:-$root/target}/images}
# shellcheck disable=SC2034
generated=${PETMESH_GENERATED:-$root/deploy/generated}
# shellcheck disable=SC2034
overlays=${PETMESH_OVERLAYS:-$root/deploy/overlays}

# What an object of ours carries; the manifests set both labels.
# shellcheck disable=SC2034
ours='app.kubernetes.io/part-of=petmesh,app.kubernetes.io/managed-by=kustomize'

# shellcheck source=deploy/lib/output.sh
. "$root/deploy/lib/output.sh"
# shellcheck source=deploy/lib/cluster.sh
. "$root/deploy/lib/cluster.sh"
# shellcheck source=deploy/lib/nodes.sh
. "$root/deploy/lib/nodes.sh"
# shellcheck source=deploy/lib/images.sh
. "$root/deploy/lib/images.sh"
# shellcheck source=deploy/lib/load.sh
. "$root/deploy/lib/load.sh"
# shellcheck source=deploy/lib/render.sh
. "$root/deploy/lib/render.sh"
# shellcheck source=deploy/lib/preflight.sh
. "$root/deploy/lib/preflight.sh"
# shellcheck source=deploy/lib/limits.sh
. "$root/deploy/lib/limits.sh"
# shellcheck source=deploy/lib/rollout.sh
. "$root/deploy/lib/rollout.sh"
# shellcheck source=deploy/lib/deploy.sh
. "$root/deploy/lib/deploy.sh"
# shellcheck source=deploy/lib/undeploy.sh
. "$root/deploy/lib/undeploy.sh"
# shellcheck source=deploy/lib/address.sh
. "$root/deploy/lib/address.sh"
# shellcheck source=deploy/lib/inspect.sh
. "$root/deploy/lib/inspect.sh"

usage() {
  cat <<'END'
usage: deploy/mesh.sh COMMAND

  preflight [SUBSTRATE]  check everything that deploy needs and change nothing; SUBSTRATE: cluster (default), containers, k3s
  load                   bring the images of `make images` to the nodes of the cluster
  deploy                 preflight, load, apply, wait for the roll-out, print a curl that works
  undeploy               delete what deploy created, and nothing else
  url                    print a curl that works from here (starts a port-forward if nothing else answers)
  status                 deployments, pods, images and endpoints; exit code 1 unless all are ready
  logs                   the pods' logs

variables
  CONTEXT=NAME           the kubeconfig context; without it the current one
  CONFIRM=NAME           the context's name again, where it looks like production
  OVERLAY=NAME           minikube, kind, k3s or generic; without it chosen from the cluster
  NAMESPACE=petmesh      where the mesh is deployed
  TIMEOUT=180            seconds to wait for a roll-out or a deletion
  IMAGES=loaded          the nodes have the images: neither load nor check them
  KUBECTL=kubectl        the client, for example KUBECTL='minikube kubectl --'
  CONTAINERD_ADDRESS=    containerd's socket, where this machine is the node and it is not the usual one
  PORT=8080              the local port preferred for a port-forward
  APP=pet CONTAINER=proxy FOLLOW=1   for logs: which, and whether to go on
END
}

main() {
  case "$NAMESPACE" in
    '' | -* | *- | *[!a-z0-9-]*) die "NAMESPACE=$NAMESPACE is not the name of a namespace" "use lower-case letters, digits and dashes" ;;
  esac
  case "$TIMEOUT" in
    '' | *[!0-9]*) die "TIMEOUT=$TIMEOUT is not a number of seconds" "for example TIMEOUT=180" ;;
  esac
  case "$PORT" in
    '' | *[!0-9]*) die "PORT=$PORT is not a port" "for example PORT=8080" ;;
  esac
  local command=${1:-}
  [ $# -eq 0 ] || shift
  case "$command" in
    preflight) preflight_command "$@" ;;
    load) load_command ;;
    deploy) deploy_command ;;
    undeploy) undeploy_command ;;
    url) url_command ;;
    status) status_command ;;
    logs) logs_command ;;
    help | --help | -h) usage ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
}

main "$@"
