# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# The nodes: which kind of cluster they are, which of them can run pods, and whether the images are made for them.
#
# Reads the nodes once into $scratch/nodes, a line a node:
# name|ready|cordoned|arch|kubelet|provider|minikube profile|InternalIPs and ExternalIPs|taints
# that keep pods away|container runtime|its socket|OpenShift's system|message.

cluster_kind= # minikube, kind, k3d, k3s, docker-desktop, openshift or generic
cluster_name= # minikube's profile, the name of the kind or k3d cluster
nodes_known=  # empty where the user may not list nodes

# shellcheck disable=SC2016 # the dollar signs are the template's
nodes_template='{{range .items}}{{.metadata.name}}|{{with .status}}{{range .conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}{{end}}|{{with .spec}}{{with .unschedulable}}cordoned{{end}}{{end}}|{{with .status}}{{with .nodeInfo}}{{with .architecture}}{{.}}{{end}}|{{with .kubeletVersion}}{{.}}{{end}}{{else}}|{{end}}{{else}}|{{end}}|{{with .spec}}{{with .providerID}}{{.}}{{end}}{{end}}|{{with .metadata.labels}}{{with index . "minikube.k8s.io/name"}}{{.}}{{end}}{{end}}|{{with .status}}{{range .addresses}}{{if or (eq .type "InternalIP") (eq .type "ExternalIP")}}{{.address}} {{end}}{{end}}{{end}}|{{with .spec}}{{range .taints}}{{if ne .effect "PreferNoSchedule"}}{{.key}}:{{.effect}} {{end}}{{end}}{{end}}|{{with .status}}{{with .nodeInfo}}{{with .containerRuntimeVersion}}{{.}}{{end}}{{end}}{{end}}|{{with .metadata.annotations}}{{with index . "kubeadm.alpha.kubernetes.io/cri-socket"}}{{.}}{{end}}{{end}}|{{with .metadata.labels}}{{with index . "node.openshift.io/os_id"}}{{.}}{{end}}{{end}}|{{with .status}}{{range .conditions}}{{if eq .type "Ready"}}{{with .message}}{{.}}{{end}}{{end}}{{end}}{{end}}
{{end}}'

read_nodes() {
  if k_quiet get nodes -o go-template="$nodes_template" >"$scratch/nodes"; then
    nodes_known=yes
  else
    local problem
    problem=$(complaint "$scratch/stderr")
    case "$problem" in
      *nauthorized* | *"must be logged in"*)
        die "$server does not accept the credentials of the context $context: $problem" "renew them, or choose another CONTEXT" ;;
      *orbidden* | *"cannot list"*) note "the nodes cannot be listed with these credentials: neither their architecture nor their images are checked" ;;
      *) die "the nodes of $server cannot be listed: $problem" "see that the API server is well: kubectl get nodes" ;;
    esac
    : >"$scratch/nodes"
  fi
  find_kind
}

find_kind() {
  local name kubelet provider profile openshift
  IFS='|' read -r name _ _ _ kubelet provider profile _ _ _ _ openshift _ <"$scratch/nodes" || true
  cluster_kind=generic
  if [ -n "${profile:-}" ] || [ "$context" = minikube ]; then
    cluster_kind=minikube cluster_name=${profile:-minikube}
  elif [ "$context" = docker-desktop ] || [ "${name:-}" = docker-desktop ]; then
    cluster_kind=docker-desktop
  else
    case "$context ${provider:-} ${kubelet:-}" in
      kind-*) cluster_kind=kind cluster_name=${context#kind-} ;;
      *" kind://"*) cluster_kind=kind cluster_name=$(cut -d/ -f4 <<<"$provider") ;;
      k3d-*) cluster_kind=k3d cluster_name=${context#k3d-} ;;
      *+k3s*)
        cluster_kind=k3s
        case "${name:-}" in
          k3d-*-server-*) cluster_kind=k3d cluster_name=${name#k3d-} cluster_name=${cluster_name%-server-*} ;;
        esac
        ;;
      *) [ -z "${openshift:-}" ] || cluster_kind=openshift ;;
    esac
  fi
}

# The folder of this cluster's overlay: one of deploy/overlays by its name, or any other by its path.
choose_overlay() {
  if [ -z "$OVERLAY" ]; then
    case "$cluster_kind" in
      minikube | kind | k3s | openshift) OVERLAY=$cluster_kind ;;
      k3d) OVERLAY=k3s ;;
      *) OVERLAY=generic ;;
    esac
  fi
  case "$OVERLAY" in
    */*) overlay_folder=${OVERLAY%/} ;;
    *) overlay_folder=$overlays/$OVERLAY ;;
  esac
  if [ ! -f "$overlay_folder/kustomization.yaml" ]; then
    local known
    known=$(cd "$overlays" 2>/dev/null && ls) || true
    die "there is no overlay $OVERLAY: $overlay_folder holds no kustomization.yaml" \
      "set OVERLAY to one of: $(one_line "$known"), or to the path of a folder, such as deploy/examples/overlays/hpa"
  fi
}

# At least one node must be ready and take pods; $scratch/usable gets the names of those.
check_nodes() {
  : >"$scratch/usable"
  [ -n "$nodes_known" ] || return 0
  [ -s "$scratch/nodes" ] || die "the cluster at $server has no node" "add one (minikube node add; kubeadm join), then try again"
  local name ready cordoned taints message trouble=
  while IFS='|' read -r name ready cordoned _ _ _ _ _ taints _ _ _ message; do
    if [ "$ready" != True ]; then
      trouble="$trouble node $name is not ready (${message:-its kubelet does not report});"
    elif [ -n "$cordoned" ]; then
      trouble="$trouble node $name is cordoned;"
    elif [ -n "$taints" ]; then
      trouble="$trouble node $name has the taint ${taints% };"
    else
      printf '%s\n' "$name" >>"$scratch/usable"
    fi
  done <"$scratch/nodes"
  [ ! -s "$scratch/usable" ] || return 0
  local remedy="kubectl describe nodes tells why"
  case "$trouble" in
    *cordoned*) remedy="wait until whoever cordoned it has finished; if that was you: kubectl uncordon $name" ;;
    *node-role.kubernetes.io*)
      remedy="add a node for pods (minikube node add; kubeadm join), or choose another CONTEXT: the control plane's nodes stay as they are" ;;
    *network* | *cni*) remedy="install a network plugin; kubectl describe nodes tells more" ;;
  esac
  die "no node can run pods:${trouble%;}" "$remedy"
}

# ARCH gets the architecture of the nodes that pods will run on, if the nodes are known. With ARCH set by the user only
# nodes of it count, and `one_of_several` makes the pods keep to them.
# shellcheck disable=SC2034 # used by render
one_of_several=
choose_architecture() {
  local name arch found='' others=''
  # shellcheck disable=SC2034
  while IFS='|' read -r name _ _ arch _; do
    if [ -z "$arch" ] || ! grep -Fxq -- "$name" "$scratch/usable"; then continue; fi
    case "$arch" in
      "${ARCH:-$arch}") case " $found " in *" $arch "*) ;; *) found="$found${found:+ }$arch" ;; esac ;;
      *) others="$others${others:+, }$name is $arch" one_of_several=yes ;;
    esac
    [ -z "$ARCH" ] || [ "$arch" = "$ARCH" ] || drop_usable "$name"
  done <"$scratch/nodes"
  [ -n "$nodes_known" ] || return 0
  case "$found" in
    '') [ -z "$others" ] || die "no node is $ARCH: $others" "leave ARCH out, or set it to the architecture of a node" ;;
    *' '*)
      # The images that are built decide; `check_architecture` names the nodes that they are not for.
      if [ -n "$build" ]; then
        die "the nodes are of several architectures ($found), and the images are for one" \
          "say which: ARCH=${found%% *} (the pods then keep to those nodes)"
      fi
      ;;
    amd64 | arm64) ARCH=$found ;;
    *) die "the nodes are $found, and the images are for amd64 or arm64" "choose another CONTEXT" ;;
  esac
}

drop_usable() {
  grep -Fxv -- "$1" "$scratch/usable" >"$scratch/kept" || true
  mv "$scratch/kept" "$scratch/usable"
}

# $1: the architecture of the images. Every node that may get a pod must have it.
check_architecture() {
  local name arch
  while IFS='|' read -r name _ _ arch _; do
    grep -Fxq -- "$name" "$scratch/usable" || continue
    if [ -n "$arch" ] && [ "$arch" != "$1" ]; then
      die "node $name is $arch and the images are $1" \
        "build them for it (ARCH=$arch make images), or, if other nodes are $1, have the pods keep to those: ARCH=$1"
    fi
  done <"$scratch/nodes"
}

node_addresses() {
  cut -d'|' -f8 <"$scratch/nodes" | tr ' ' '\n' | sed '/^$/d'
}
