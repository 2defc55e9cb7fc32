#!/usr/bin/env bash
# Says whether Docker is there and answers: silence and 0, or one line with the remedy and 1.
#
# Called by build.sh, check.sh, .ci/docker and `make e2e-containers`. Runs on Linux and macOS (bash 3.2).
set -euo pipefail

fail() {
  echo "$*" >&2
  exit 1
}

if ! command -v docker >/dev/null; then
  case $(uname -s) in
    Darwin) fail "Docker is missing: install Docker Desktop or colima (brew install colima docker), and start it" ;;
    *) fail "Docker is missing: install it (Debian: apt-get install docker.io; Fedora: dnf install moby-engine), and start it" ;;
  esac
fi

# A daemon that is stopped or overloaded may accept the connection and never answer.
limit=()
if command -v timeout >/dev/null; then limit=(timeout 30); fi
code=0
said=$("${limit[@]+"${limit[@]}"}" docker version --format '{{.Server.Os}}' 2>&1) || code=$?
place=${DOCKER_HOST:+ at DOCKER_HOST=$DOCKER_HOST}
case $code:$said in
  0:*linux) ;;
  0:*) fail "Docker runs containers of another system ($said): switch it to Linux containers" ;;
  124:*) fail "Docker does not answer${place} within 30 s: restart it (sudo systemctl restart docker, or Docker Desktop)" ;;
  *"permission denied"*) fail "Docker${place} refuses this user: sudo usermod -aG docker $(id -un), then log in again" ;;
  *)
    case $(uname -s) in
      Darwin) start="open Docker Desktop, or colima start" ;;
      *) start="sudo systemctl start docker, or, without systemd, sudo dockerd" ;;
    esac
    fail "Docker is installed, but its daemon does not answer${place}: start it ($start)"
    ;;
esac
