# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# Bringing the images to the nodes: which way there is, known before anything is built, and the loading itself. An image
# that is there is not loaded again: its tag is the hash of its content.

load_command() {
  preflight_cluster
  [ -n "$build" ] || need_images
  choose_architecture
  ready_images
  load_images
  await_reported
}

# The images, built first where the command is to build them, and the way to the nodes for those that are missing there.
# That there is one is known before the building begins.
ready_images() {
  if [ -n "$build" ]; then
    prepare_load
    check_build
    ARCH=$ARCH "$build_script" || exit 1 # it has said why
    build=
  fi
  need_images
  local arch
  arch=$(image_architecture)
  [ -z "$arch" ] || check_architecture "$arch"
  prepare_load
}

# Whether the images can be built here for the nodes, before anything is built.
check_build() {
  ARCH=$ARCH "$build_script" --check >/dev/null 2>"$scratch/stderr" </dev/null ||
    die "the images cannot be built${ARCH:+ for $ARCH} on this machine: $(tail -n 1 "$scratch/stderr")" \
      "or build them on a machine that can (make images), copy target/images here, and run: deploy/mesh.sh deploy"
}

# --- which way ---

way=        # minikube, kind, k3d, docker, podman, skopeo, k3s, ctr, registry or loaded; empty: there is none
way_socket= # of ctr: where containerd listens
way_shown=  # for messages
way_tool=   # of a registry: what pushes
tried=      # why the ways before it do not apply

# Sets `way`. With $1 set to `deeply` a tool is asked whether it reaches the cluster, and $scratch/present gets the
# images that it names; otherwise that it is installed is enough.
find_way() {
  way='' way_socket='' tried=''
  : >"$scratch/present"
  if [ "$IMAGES" = loaded ]; then
    way=loaded
  elif [ -n "$REGISTRY" ]; then
    try_registry
  else
    case "$cluster_kind" in
      minikube) try_tool minikube "${1:-}" https://minikube.sigs.k8s.io/docs/start/ minikube -p "$cluster_name" image ls || try_node ;;
      kind) try_tool kind "${1:-}" https://kind.sigs.k8s.io/docs/user/quick-start/ kind get nodes --name "$cluster_name" ;;
      k3d) try_tool k3d "${1:-}" https://k3d.io/ k3d cluster get "$cluster_name" ;;
      docker-desktop) try_tool docker "${1:-}" "it comes with Docker Desktop" docker version ;;
      *) try_node ;;
    esac
  fi || true
}

# $1: what does not apply, and why.
fails() {
  tried="$tried${tried:+, }$1"
  return 1
}

# $1: a tool that loads images into this kind of cluster, $2: how deeply to ask, $3: where to get it, the rest: a command
# that succeeds where it reaches the cluster.
try_tool() {
  local tool=$1 deeply=$2 source=$3
  shift 3
  have "$tool" || fails "$tool is missing, which loads images into this cluster ($source)" || return 1
  if [ -n "$deeply" ]; then
    within 20 "$@" >"$scratch/present" 2>"$scratch/tool" </dev/null ||
      fails "$* fails ($(complaint "$scratch/tool"))" || return 1
    if [ "$tool" = kind ] && ! grep . "$scratch/present" >/dev/null; then
      fails "kind knows no cluster $cluster_name on this machine" || return 1
    fi
  fi
  way=$tool way_shown="$tool"
}

# This machine is the one node that pods can run on: its container runtime takes the archives.
try_node() {
  local node runtime socket
  [ -n "$nodes_known" ] || fails "the nodes may not be listed with these credentials" || return 1
  node=$(one_line "$(cat "$scratch/usable")")
  case "$node" in
    *' '*) fails "the pods may run on several nodes ($node)" || return 1 ;;
  esac
  on_the_node || fails "this machine is not the node $node" || return 1
  ask_for_sudo
  IFS='|' read -r _ _ _ _ _ _ _ _ _ runtime socket _ < <(grep -F -- "$node|" "$scratch/nodes")
  case "$runtime" in
    docker://*) try_runtime docker docker version ;;
    cri-o://*) try_runtime podman podman version || try_runtime skopeo skopeo --version ;;
    *)
      if [ "$cluster_kind" = k3s ] && [ -z "${CONTAINERD_ADDRESS:-}" ] && have k3s; then
        try_containerd /run/k3s/containerd/containerd.sock k3s ctr
      else
        try_containerds "$node" "${socket#unix://}"
      fi
      ;;
  esac
}

# $1: what loads images into the node's own runtime; the rest: a command that succeeds where it works.
try_runtime() {
  have "$1" || fails "$1 is missing, which loads images into the node's $runtime" || return 1
  way=$1 way_shown=$1
  shift
  as_root "$@" >/dev/null 2>"$scratch/tool" </dev/null || {
    way=
    fails "$* fails ($(complaint "$scratch/tool"))"
  }
}

# A node may have several containerds, Docker's beside the kubelet's. $1: the node, $2: the socket in its annotations.
try_containerds() {
  local socket absent=
  have ctr || fails "ctr is missing, which loads images into containerd" || return 1
  # One that the user names is taken at their word.
  if [ -n "${CONTAINERD_ADDRESS:-}" ]; then
    try_containerd "$CONTAINERD_ADDRESS" ctr
    return
  fi
  for socket in $(kubelet_sockets "$2"); do
    if ! as_root test -S "$socket"; then
      absent="$absent${absent:+ or }$socket"
      continue
    fi
    try_containerd "$socket" ctr || continue
    if is_kubelets "$1"; then return 0; fi
    way=
    fails "the containerd at $socket has none of the images that the kubelet of $1 reports, so it is another's" || true
  done
  [ -z "$absent" ] || fails "there is no socket $absent (CONTAINERD_ADDRESS names another)"
  return 1
}

# $1: a socket, the rest: the client.
try_containerd() {
  local socket=$1
  shift
  way=${1} way_socket=$socket way_shown="ctr at $socket"
  containerd images ls -q >"$scratch/present" 2>"$scratch/tool" </dev/null || {
    way=
    local why
    why=$(complaint "$scratch/tool")
    case "$why" in
      *"permission denied"*) why="only root may ask it, and sudo wants a password" ;;
      *"deadline exceeded"*) why="it does not answer" ;;
    esac
    fails "no containerd answers at $socket: $why"
  }
}

# containerd's client at the socket that was found.
containerd() {
  case "$way" in
    k3s) as_root k3s ctr "$@" ;;
    *) as_root ctr --connect-timeout 2s -a "$way_socket" -n k8s.io "$@" ;;
  esac
}

# Where the kubelet's containerd may listen: as kubeadm noted, as the kubelet was configured, then the usual places.
kubelet_sockets() {
  {
    [ -z "$1" ] || printf '%s\n' "$1"
    cat /var/lib/kubelet/instance-config.yaml /var/lib/kubelet/config.yaml 2>/dev/null |
      sed -nE 's#^containerRuntimeEndpoint: *"?(unix://)?(/[^" ]+)"?.*#\2#p'
    tr ' ' '\n' <<<"$sockets"
  } | awk '!seen[$0]++'
}

# Whether the runtime that named $scratch/present is the one of node $1: its kubelet reports some of the same images.
# A kubelet that reports none yet does not tell.
is_kubelets() {
  sed -nE "s/^$1 ([^ ]*[^0-9 ][^ ]*)\$/\1/p" "$scratch/names" >"$scratch/kubelets"
  [ -s "$scratch/kubelets" ] || return 0
  grep -Fxq -f "$scratch/kubelets" "$scratch/present"
}

try_registry() {
  local tool
  for tool in skopeo crane docker; do
    if have "$tool"; then
      way=registry way_tool=$tool way_shown="$tool to $REGISTRY"
      return 0
    fi
  done
  fails "neither skopeo nor crane nor docker is here to push to REGISTRY=$REGISTRY"
}

# Finds the way before anything is built or changed, and ends where the nodes need images and there is none.
prepare_load() {
  : >"$scratch/to_load"
  read_reported
  if [ "$IMAGES" = loaded ]; then
    find_way
    return
  fi
  if read_images; then
    find_missing
    missing_images >"$scratch/to_load"
  fi
  if [ -s "$scratch/images" ] && [ ! -s "$scratch/to_load" ]; then
    [ -n "$build" ] || return 0
    find_way
    if [ -z "$way" ]; then
      note "the nodes have the images of the last build; no other could be brought there: $tried"
    fi
    return
  fi
  local image
  while read -r image; do [ -n "$build" ] || need_archive "$image"; done <"$scratch/to_load"
  find_way deeply
  if [ -z "$way" ]; then no_way; fi
}

# Ends with each way that was tried, and what the user can do.
no_way() {
  local nodes node command archives image
  # What the node does not name may still be there, and the roll-out tells.
  # shellcheck disable=SC2013 # words
  for node in $(cut -d' ' -f1 "$scratch/missing" 2>/dev/null | sort -u); do
    if is_cut_off "$node"; then
      note "node $node reports only its $reported_at_most largest images, so nobody can tell whether ours are there: $tried"
      : >"$scratch/to_load"
      return
    fi
  done
  nodes=$(one_line "$(cat "$scratch/usable" 2>/dev/null)")
  archives="$images_folder/*.tar"
  command="sudo ctr -n k8s.io images import FILE"
  [ "$cluster_kind" != k3s ] || command="sudo k3s ctr images import FILE"
  local what="the images cannot be brought to ${nodes:-the nodes}: $tried"
  if [ -s "$scratch/to_load" ]; then
    what="node $nodes does not have: $(one_line "$(cat "$scratch/to_load")"), and $what"
    archives=
    while read -r image; do archives="$archives${archives:+ }$(archive_of "$image")"; done <"$scratch/to_load"
  fi
  die "$what" "push them to a registry that the nodes pull from (make deploy REGISTRY=host/path), or bring them by hand: make images${ARCH:+ ARCH=$ARCH}, copy $archives to each node, run there for each: $command, then: make deploy IMAGES=loaded"
}

# --- loading ---

load_images() {
  if [ "$IMAGES" = loaded ]; then
    say "images: taken as loaded (IMAGES=loaded)"
    return
  fi
  local image archive loaded=0 all
  : >"$scratch/loaded"
  while read -r image; do
    if is_present "$image"; then continue; fi
    archive=$(archive_of "$image")
    say "  loading $image"
    load_one "$archive" "$image" >"$scratch/load" 2>&1 </dev/null ||
      die "$image cannot be loaded by $way_shown: $(tail -n 1 "$scratch/load")" "see what it complains of, or load $archive by hand, then: make deploy IMAGES=loaded"
    printf '%s\n' "$image" >>"$scratch/loaded"
    loaded=$((loaded + 1))
  done <"$scratch/to_load"
  all=$(wc -l <"$scratch/images")
  [ "$loaded" -gt 0 ] || way_shown=
  say "images: $((all - loaded)) on the nodes already, $loaded loaded${way_shown:+ by $way_shown}"
}

# Whether the tool of this way names an image as there already.
is_present() {
  case "$way:$way_tool" in
    registry:skopeo) within 20 skopeo inspect --raw "docker://$REGISTRY/$1" >/dev/null 2>&1 </dev/null ;;
    registry:crane) within 20 crane manifest "$REGISTRY/$1" >/dev/null 2>&1 </dev/null ;;
    registry:docker) within 20 docker manifest inspect "$REGISTRY/$1" >/dev/null 2>&1 </dev/null ;;
    minikube:* | k3s:* | ctr:*) grep -Fxq -e "$1" -e "docker.io/$1" "$scratch/present" ;;
    *) return 1 ;;
  esac
}

# $1: the archive, $2: the image in it.
load_one() {
  case "$way" in
    minikube) minikube -p "$cluster_name" image load "$1" ;;
    kind) kind load image-archive "$1" --name "$cluster_name" ;;
    k3d) k3d image import "$1" -c "$cluster_name" ;;
    docker) if [ "$cluster_kind" = docker-desktop ]; then docker load -i "$1"; else as_root docker load -i "$1"; fi ;;
    podman) as_root podman load -i "$1" ;;
    skopeo) as_root skopeo copy "docker-archive:$1" "containers-storage:docker.io/$2" ;;
    k3s | ctr) containerd images import "$1" ;;
    registry) push "$1" "$2" ;;
  esac
}

push() {
  case "$way_tool" in
    skopeo) skopeo copy "docker-archive:$1" "docker://$REGISTRY/$2" ;;
    crane) crane push "$1" "$REGISTRY/$2" ;;
    docker) docker load -i "$1" && docker tag "$2" "$REGISTRY/$2" && docker push "$REGISTRY/$2" ;;
  esac
}

# Whether this machine is the one node that pods can run on, by its name or an address.
on_the_node() {
  [ "$(wc -l <"$scratch/usable")" -eq 1 ] || return 1
  local node own address
  node=$(cat "$scratch/usable")
  own=$(hostname 2>/dev/null | tr '[:upper:]' '[:lower:]') || true
  if [ "$node" = "$own" ] || [ "${node%%.*}" = "${own%%.*}" ]; then return 0; fi
  own_addresses >"$scratch/own"
  # shellcheck disable=SC2013 # words
  for address in $(grep -F -- "$node|" "$scratch/nodes" | cut -d'|' -f8); do
    if grep -Fxq -- "$address" "$scratch/own"; then return 0; fi
  done
  return 1
}

own_addresses() {
  {
    ip -o addr 2>/dev/null || ifconfig 2>/dev/null || hostname -I 2>/dev/null | tr ' ' '\n' | sed 's/^/inet /' || true
  } | sed -nE 's#.*inet6? (addr:)?([0-9a-f.:]+).*#\2#p'
}

# Lets sudo ask for its password once, where somebody can type it: later its input and output are elsewhere.
ask_for_sudo() {
  if [ "$(id -u)" -eq 0 ] || ! have sudo || sudo -n true 2>/dev/null; then return 0; fi
  if [ -t 0 ] && [ -t 2 ]; then sudo -v || true; fi
}

# As root, by sudo if it needs no password or has been told it.
as_root() {
  if [ "$(id -u)" -ne 0 ] && have sudo && sudo -n true 2>/dev/null; then sudo -n "$@"; else "$@"; fi
}

# $1: seconds, where this machine has `timeout`; the rest: a command.
within() {
  local seconds=$1
  shift
  if have timeout; then timeout "$seconds" "$@"; else "$@"; fi
}

# --- whether they arrived ---

# After `load`: waits until the kubelets report what was loaded. A kubelet looks at its images twice a minute, and up to
# ten seconds later its node's status says so. `deploy` does not wait: its pods tell sooner.
await_reported() {
  local deadline wait=45 node
  if [ ! -s "$scratch/loaded" ] || [ -z "$nodes_known" ] || [ "$way" = registry ]; then return 0; fi
  [ "$TIMEOUT" -ge "$wait" ] || wait=$TIMEOUT
  deadline=$(($(now) + wait))
  find_missing
  # shellcheck disable=SC2013 # words
  for node in $(cut -d' ' -f1 "$scratch/missing" | sort -u); do
    if is_cut_off "$node"; then return 0; fi
  done
  while [ -s "$scratch/missing" ]; do
    [ "$(now)" -lt "$deadline" ] ||
      die "the kubelet of $(one_line "$(cut -d' ' -f1 "$scratch/missing" | sort -u)") does not report $(one_line "$(missing_images)") $wait s after $way_shown took them" "$(other_runtime)"
    progress "waiting at most $wait s until the kubelets report the images"
    sleep 1
    find_missing
  done
  say "images: the kubelets report them"
}

# What to do where a tool took the images and the kubelet does not find them: it reads another runtime's.
other_runtime() {
  case "$way" in
    ctr | k3s) printf "name the socket of the kubelet's own containerd (on the node: ps -A -o args= | grep kubelet, look for container-runtime-endpoint): make deploy CONTAINERD_ADDRESS=/path/of/containerd.sock" ;;
    kind | k3d) printf 'the node looks for images elsewhere: docker exec NODE crictl images shows what it has; import the archives there, then: make deploy IMAGES=loaded' ;;
    minikube) printf "see what the node's runtime has (minikube -p %s ssh -- sudo crictl images), load the archives into it, then: make deploy IMAGES=loaded" "$cluster_name" ;;
    *) printf "the kubelet reads another runtime than %s: crictl images on the node shows what it has; import the archives there, then: make deploy IMAGES=loaded" "$way_shown" ;;
  esac
}

# What to do about a pod whose image is not there. $1: the image.
image_remedy() {
  local name=${1#docker.io/}
  name=${name#localhost/}
  case "$name" in
    petmesh/* | '') ;;
    "${REGISTRY:-none}"/*) ;;
    *)
      printf 'the node pulls %s from its registry: see that it can, or choose an overlay without it' "$1"
      return
      ;;
  esac
  case "$way" in
    loaded) printf 'IMAGES=loaded was set and the node does not have it: make deploy without that, or import its archive from %s into the runtime of the node' "$images_folder" ;;
    registry) printf 'the node cannot pull it from %s: the registry must be reachable from the nodes without a password, or the ServiceAccounts need imagePullSecrets' "$REGISTRY" ;;
    '') printf 'the node does not have the image: make deploy loads it; archives are in %s' "$images_folder" ;;
    *)
      if [ -s "$scratch/to_load" ]; then
        printf '%s took it and the kubelet does not find it: %s' "$way_shown" "$(other_runtime)"
      else
        printf 'the node reported the image a moment ago and has removed it since: make deploy loads it again'
      fi
      ;;
  esac
}
