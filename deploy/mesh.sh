#!/usr/bin/env bash
# The mesh on a Kubernetes cluster: deploy/mesh.sh {preflight|load|deploy|undeploy|url|status|logs|help}.
#
# For bash 3.2 (macOS) or newer. Every command can be run again: it does what is still to be done
# and says so. Whatever is missing is said in one line, `error: what; remedy`, with exit code 1 (2:
# wrong usage); all checks come before the first write. `help` lists the variables. Its parts are
# in deploy/lib, one file a subject.
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
TAIL=${TAIL:-50}
ARCH=${ARCH:-}
REGISTRY=${REGISTRY:-}

# make exports what nobody has set as an empty value, which containerd's client would take for an address.
[ -n "${CONTAINERD_ADDRESS:-}" ] || unset CONTAINERD_ADDRESS

# Where things lie. Each place can be set for tests, which run side by side.
# shellcheck disable=SC2034 # used by the parts
images_folder=${PETMESH_IMAGES:-${CARGO_TARGET_DIR:-$root/target}/images}
# shellcheck disable=SC2034
generated=${PETMESH_GENERATED:-$root/deploy/generated}
# shellcheck disable=SC2034
overlays=${PETMESH_OVERLAYS:-$root/deploy/overlays}
# shellcheck disable=SC2034 # where the kubelet's containerd may listen
sockets=${PETMESH_SOCKETS:-/run/containerd/containerd.sock /run/k3s/containerd/containerd.sock \
/var/snap/microk8s/common/run/containerd.sock /run/k0s/containerd.sock}
# shellcheck disable=SC2034
build_script=${PETMESH_BUILD:-$root/deploy/images/build.sh}
# shellcheck disable=SC2034 # set by --build
build=

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
# shellcheck source=deploy/lib/configuration.sh
. "$root/deploy/lib/configuration.sh"
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

  preflight [PLATFORM]   check everything that deploy needs and change nothing; PLATFORM: cluster (default), containers, k3s
  load [--build]         bring the images to the nodes of the cluster, built before where --build is given
  deploy [--build]       preflight, load, apply, wait for the roll-out, print a curl that works
  undeploy               delete what deploy created, and nothing else
  url                    print a curl that works from here (starts a port-forward if nothing else answers)
  status                 deployments, pods, images, endpoints, refused configurations; exit code 1 unless all is well
  logs                   the pods' logs

variables
  CONTEXT=NAME           the kubeconfig context; without it the current one
  CONFIRM=NAME           the context's name again, where it looks like production and is changed
  OVERLAY=NAME           minikube, kind, k3s, openshift or generic, or the path of a folder; without it chosen from the cluster
  NAMESPACE=petmesh      where the mesh is deployed
  TIMEOUT=180            seconds to wait for a roll-out or a deletion
  ARCH=amd64             amd64 or arm64: only nodes of it count; without it that of the nodes
  IMAGES=loaded          the nodes have the images: neither build, load nor check them
  REGISTRY=HOST/PATH     push the images there, and have the nodes pull them from there
  KUBECTL=kubectl        the client, for example KUBECTL='minikube kubectl --'
  CONTAINERD_ADDRESS=    the socket of the kubelet's containerd, where this machine is the node
  PORT=8080              the local port preferred for a port-forward
  APP=pet CONTAINER=proxy TAIL=50 FOLLOW=1   for logs: which, how many lines, and whether to go on
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
  case "$TAIL" in
    -1) ;;
    '' | *[!0-9]*) die "TAIL=$TAIL is not a number of lines" "for example TAIL=200 (-1: all)" ;;
  esac
  case "$ARCH" in
    '' | amd64 | arm64) ;;
    *) die "ARCH=$ARCH: there are no images for that" "set ARCH to amd64 or arm64" ;;
  esac
  case "$REGISTRY" in
    /* | */ | *[!a-z0-9.:/_-]*) die "REGISTRY=$REGISTRY is not the name of a registry" "for example REGISTRY=registry.example/team" ;;
  esac
  local command=${1:-}
  [ $# -eq 0 ] || shift
  case "$command $*" in
    'deploy --build' | 'load --build')
      [ "$IMAGES" = loaded ] || build=yes
      shift
      ;;
  esac
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
