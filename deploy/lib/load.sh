# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# Bringing the images to the nodes, by the tool of each kind of cluster. An image that is there is not loaded again: its tag
# is the hash of its content.
#
# Called by deploy and by `mesh.sh load`; calls output, cluster, nodes and images.

load_command() {
  preflight_cluster
  need_images
  check_loader
  load_images
}

# Whether the tool is there that loads images into this kind of cluster, and the archives, before anything is changed.
check_loader() {
  [ "$IMAGES" != loaded ] || return 0
  find_missing
  missing_images >"$scratch/to_load"
  [ -s "$scratch/to_load" ] || return 0
  local image
  while read -r image; do need_archive "$image"; done <"$scratch/to_load"
  case "$cluster_kind" in
    minikube) need_tool minikube "https://minikube.sigs.k8s.io/docs/start/" ;;
    kind) need_tool kind "https://kind.sigs.k8s.io/docs/user/quick-start/" ;;
    k3d) need_tool k3d "https://k3d.io/" ;;
    docker-desktop) need_tool docker "it comes with Docker Desktop" ;;
    k3s)
      if ! have k3s || ! on_the_node; then by_hand "sudo k3s ctr images import"; fi
      ;;
    generic)
      if ! have ctr || ! on_the_node || ! containerd_answers; then await_reported; fi
      ;;
  esac
}

load_images() {
  if [ "$IMAGES" = loaded ]; then
    say "images: taken as loaded (IMAGES=loaded)"
    return
  fi
  local image archive loaded=0
  : >"$scratch/present"
  case "$cluster_kind" in
    minikube) minikube -p "$cluster_name" image ls >"$scratch/present" 2>/dev/null || true ;;
    k3s) [ ! -s "$scratch/to_load" ] || as_root k3s ctr images ls -q >"$scratch/present" 2>/dev/null || true ;;
    generic) [ ! -s "$scratch/to_load" ] || as_root ctr -n k8s.io images ls -q >"$scratch/present" 2>/dev/null || true ;;
  esac
  while read -r image; do
    if grep -Fxq -e "$image" -e "docker.io/$image" "$scratch/present"; then continue; fi
    archive=$(archive_of "$image")
    say "  loading $image"
    load_one "$archive" >"$scratch/load" 2>&1 </dev/null ||
      die "$image cannot be loaded into this $cluster_kind cluster: $(tail -n 1 "$scratch/load")" "load $archive by hand, then: make deploy IMAGES=loaded"
    loaded=$((loaded + 1))
  done <"$scratch/to_load"
  local all
  all=$(wc -l <"$scratch/images")
  say "images: $((all - loaded)) on the nodes already, $loaded loaded"
}

load_one() {
  case "$cluster_kind" in
    minikube) minikube -p "$cluster_name" image load "$1" ;;
    kind) kind load image-archive "$1" --name "$cluster_name" ;;
    k3d) k3d image import "$1" -c "$cluster_name" ;;
    docker-desktop) docker load -i "$1" ;;
    k3s) as_root k3s ctr images import "$1" ;;
    generic) as_root ctr -n k8s.io images import "$1" ;;
  esac
}

need_tool() {
  have "$1" || die "$1 is missing, which loads images into this cluster" "install it ($2), or load $images_folder/*.tar by hand, then: make deploy IMAGES=loaded"
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

containerd_answers() {
  as_root ctr -n k8s.io version >/dev/null 2>&1
}

# As root: as it is, by sudo without a question, or by sudo that asks where somebody can answer.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  elif have sudo && [ -t 0 ] && [ -t 2 ]; then
    sudo "$@"
  else
    "$@"
  fi
}

# A kubelet reports a new image only after some seconds: half a minute between two looks at its images, and ten more
# until the node's status is written.
await_reported() {
  local deadline wait=45 node
  [ "$TIMEOUT" -ge "$wait" ] || wait=$TIMEOUT
  while read -r node _; do
    if is_cut_off "$node"; then
      note "node $node reports only its $reported_at_most largest images, so nobody can tell whether ours are there"
      : >"$scratch/to_load"
      return
    fi
  done <"$scratch/missing"
  if [ -z "$nodes_known" ]; then
    : >"$scratch/to_load"
    return
  fi
  deadline=$(($(now) + wait))
  while [ -s "$scratch/missing" ] && [ "$(now)" -lt "$deadline" ]; do
    progress "waiting until the nodes report the images (at most $wait s): $(count_of "$(wc -l <"$scratch/missing")" "image") missing"
    sleep 1
    find_missing
  done
  missing_images >"$scratch/to_load"
  [ -s "$scratch/to_load" ] || return 0
  if on_the_node && have ctr; then
    die "this machine is the node, and containerd does not answer at ${CONTAINERD_ADDRESS:-/run/containerd/containerd.sock}" \
      "name its socket (CONTAINERD_ADDRESS=/path make deploy), or load $images_folder/*.tar by hand, then: make deploy IMAGES=loaded"
  fi
  by_hand "sudo ctr -n k8s.io images import"
}

# Ends with what the user can do where no tool of ours reaches the nodes. $1: the command of a node that imports an archive.
by_hand() {
  local nodes images archives image
  nodes=$(cut -d' ' -f1 "$scratch/missing" | sort -u)
  images=$(cat "$scratch/to_load")
  archives=
  while read -r image; do archives="$archives $(archive_of "$image")"; done <"$scratch/to_load"
  die "node $(one_line "$nodes") does not have: $(one_line "$images")" \
    "copy the archives there and run for each of them: $1 FILE, then make deploy again (IMAGES=loaded skips this check); the archives:$archives"
}
