# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# Which cluster: kubectl itself, the context, the guard against production, whether the API answers and how old it is.
#
# After `connect`, `context` and `server` are set and `k` talks to that cluster and to no other,
# whatever happens to the current context meanwhile.

kubectl_words=()
context=
server=
server_version=

# Seconds until a request to the API is given up. A cluster that is away must not hold the user up.
request_timeout=10s

# kubectl on the chosen context, each request bounded.
k() {
  "${kubectl_words[@]}" --context "$context" --request-timeout "$request_timeout" "$@"
}

# The same without a bound, for what streams: logs -f, port-forward.
k_stream() {
  "${kubectl_words[@]}" --context "$context" "$@"
}

# kubectl with its stderr in $scratch/stderr, for `complaint`.
k_quiet() {
  k "$@" 2>"$scratch/stderr"
}

connect() {
  make_scratch
  find_kubectl
  find_context
  reach_api
}

find_kubectl() {
  read -r -a kubectl_words <<<"$KUBECTL"
  [ ${#kubectl_words[@]} -gt 0 ] || die "KUBECTL is empty" "unset it, or name the client"
  if ! have "${kubectl_words[0]}"; then
    local other="install it: https://kubernetes.io/docs/tasks/tools/ (macOS: brew install kubectl; Linux: snap install kubectl --classic)"
    if have minikube; then other="$other, or use minikube's: make deploy KUBECTL='minikube kubectl --'"; fi
    if have k3s; then other="$other, or use that of k3s: make deploy KUBECTL='k3s kubectl'"; fi
    die "${kubectl_words[0]} is missing" "$other"
  fi
  local version
  version=$("${kubectl_words[@]}" version --client 2>"$scratch/stderr" | sed -nE 's/.*v1\.([0-9]+).*/\1/p' | head -n 1) || true
  [ -n "$version" ] || die "$KUBECTL does not tell its version: $(complaint "$scratch/stderr")" "install kubectl 1.27 or newer: https://kubernetes.io/docs/tasks/tools/"
  if [ "$version" -lt 27 ]; then
    die "kubectl 1.$version is too old: its kustomize does not know components and labels" "install 1.27 or newer: https://kubernetes.io/docs/tasks/tools/"
  fi
}

find_context() {
  local contexts
  contexts=$("${kubectl_words[@]}" config get-contexts -o name 2>"$scratch/stderr") ||
    die "the kubeconfig cannot be read: $(complaint "$scratch/stderr")" "fix it, or set KUBECONFIG to another"
  context=$CONTEXT
  [ -n "$context" ] || context=$("${kubectl_words[@]}" config current-context 2>/dev/null) || true
  if [ -z "$contexts" ]; then
    die "no cluster is configured: the kubeconfig (${KUBECONFIG:-$HOME/.kube/config}) has no context" "$(start_a_cluster)"
  elif [ -z "$context" ]; then
    die "no context is chosen" "set CONTEXT to one of: $(one_line "$contexts")"
  elif ! grep -Fxq -- "$context" <<<"$contexts"; then
    die "there is no context $context in the kubeconfig" "set CONTEXT to one of: $(one_line "$contexts")"
  fi
  server=$("${kubectl_words[@]}" config view --minify --context "$context" -o 'jsonpath={.clusters[0].cluster.server}' 2>"$scratch/stderr") ||
    die "the context $context cannot be read: $(complaint "$scratch/stderr")" "fix the kubeconfig, or choose another CONTEXT"
  [ -n "$server" ] || die "the context $context names no server" "fix its cluster in the kubeconfig, or choose another CONTEXT"
}

start_a_cluster() {
  local file
  for file in /etc/rancher/k3s/k3s.yaml /etc/kubernetes/admin.conf; do
    if [ -e "$file" ]; then
      printf 'this machine has one: export KUBECONFIG=%s' "$file"
      return
    fi
  done
  printf 'start one, for example: minikube start, or: kind create cluster'
}

# A context that looks like production is changed only when its name is given a second time. What only reads does not ask.
refuse_production() {
  local reason=
  if looks_like_production "$context"; then
    reason="its name says so"
  elif is_managed "$context"; then
    reason="it is a managed cluster"
  else
    local cluster
    cluster=$("${kubectl_words[@]}" config view --minify --context "$context" -o 'jsonpath={.contexts[0].context.cluster}' 2>/dev/null) || true
    if looks_like_production "$cluster"; then
      reason="its cluster is called $cluster"
    elif is_managed "$cluster" || is_managed "$server"; then
      reason="$server is a managed cluster"
    fi
  fi
  if [ -n "$reason" ] && [ "$CONFIRM" != "$context" ]; then
    die "the context $context (server $server) looks like production: $reason" "choose another CONTEXT, or say that you mean it: CONFIRM='$context'"
  fi
}

# prod, prd, production or live as a word of its own: not delivery, olive or product.
looks_like_production() {
  grep -Eiq '(^|[^a-z])(prod|prd|production|live)([^a-z]|$)' <<<"$1"
}

is_managed() {
  case "$1" in
    gke_* | arn:aws*:eks:* | *.eksctl.io | *.azmk8s.io* | *.eks.amazonaws.com* | *.gke.goog* | *.k8s.ondigitalocean.com*) return 0 ;;
    *) return 1 ;;
  esac
}

reach_api() {
  local answer problem
  if ! answer=$(request_timeout=5s k_quiet get --raw /version); then
    problem=$(complaint "$scratch/stderr")
    case "$problem" in
      *nauthorized* | *"must be logged in"* | *orbidden*)
        die "$server does not accept the credentials of the context $context: $problem" "renew them (minikube: minikube update-context), or choose another CONTEXT" ;;
      *x509* | *certificate*)
        die "the certificate of $server does not fit the context $context: $problem" "renew the kubeconfig (minikube: minikube update-context; kind: kind export kubeconfig)" ;;
    esac
    die "no Kubernetes API answers at $server (context $context): ${problem:-kubectl failed}" "$(wake_cluster)"
  fi
  server_version=$(sed -nE 's/.*"gitVersion": *"([^"]*)".*/\1/p' <<<"$answer")
}

wake_cluster() {
  case "$context" in
    minikube) printf 'start it: minikube start' ;;
    kind-*) printf 'start it: docker start %s-control-plane, or: kind create cluster --name %s' "${context#kind-}" "${context#kind-}" ;;
    k3d-*) printf 'start it: k3d cluster start %s' "${context#k3d-}" ;;
    docker-desktop) printf 'start Docker Desktop, with Kubernetes enabled in its settings' ;;
    *) printf 'start the cluster, or choose another CONTEXT (kubectl config get-contexts)' ;;
  esac
}

# Native sidecars (init containers that go on) are on by default since 1.29; the `sleep` of preStop since 1.30.
# $1: a file with what will be applied, if there is one.
check_version() {
  local minor least=29 why="the sidecars are native ones (init containers with restartPolicy: Always)"
  minor=$(sed -nE 's/^v?1\.([0-9]+).*/\1/p' <<<"$server_version")
  [ -n "$minor" ] || die "$server tells no Kubernetes version that can be read ('$server_version')" "is it a Kubernetes API? choose another CONTEXT"
  if [ -n "${1:-}" ] && [ "$minor" -ge 29 ] && grep -Eq '^ +sleep:$' "$1"; then
    least=30 why="the manifests use the sleep action of preStop"
  fi
  if [ "$minor" -lt "$least" ]; then
    die "Kubernetes $server_version at $server is too old: 1.$least or newer is needed, because $why" "upgrade the cluster, or choose another CONTEXT, such as a newer cluster beside it (minikube start -p petmesh --kubernetes-version=stable)"
  fi
}
