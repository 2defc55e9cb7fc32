# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# The images that `make images` left: their list, their archives, what they are made for, and on which nodes they are.
#
# $scratch/images gets one `petmesh/<name>:<tag>` a line; with REGISTRY the cluster knows them as
# REGISTRY/petmesh/<name>:<tag>.

# How many images a kubelet reports of its node (nodeStatusMaxImages), the largest ones: a longer list is cut off.
reported_at_most=50

# False where nothing has been built yet.
read_images() {
  [ -s "$images_folder/list" ] || return 1
  grep -E '^[a-z0-9./-]+:[A-Za-z0-9_.-]+$' "$images_folder/list" >"$scratch/images" ||
    die "$images_folder/list names no image" "make images writes it anew"
}

need_images() {
  read_images || die "the images are not built: there is no $images_folder/list" "make images"
}

# petmesh/pet:0123 -> .../pet.tar
archive_of() {
  local name=${1%%:*}
  printf '%s/%s.tar' "$images_folder" "${name##*/}"
}

need_archive() {
  local archive
  archive=$(archive_of "$1")
  [ -f "$archive" ] || die "$archive is missing, which holds the image $1" "make images writes it anew"
}

# What the first archive was built for; empty where there is none (IMAGES=loaded).
image_architecture() {
  local archive settings
  archive=$(archive_of "$(head -n 1 "$scratch/images")")
  [ -f "$archive" ] || return 0
  settings=$(tar -xOf "$archive" manifest.json 2>/dev/null | sed -nE 's/.*"Config": *"([^"]+)".*/\1/p') || true
  [ -n "$settings" ] || die "$archive is no image archive" "make images writes it anew"
  tar -xOf "$archive" "$settings" 2>/dev/null | sed -nE 's/.*"architecture": *"([^"]+)".*/\1/p' | head -n 1 || true
}

# $scratch/names gets what the nodes report, a line `node name`, and $scratch/reported what of it is ours: `node count`
# a node, and `node petmesh/<name>:<tag>` an image, under whatever registry its runtime puts it.
read_reported() {
  # shellcheck disable=SC2016 # the dollar signs are the template's
  local template='{{range .items}}{{$node := .metadata.name}}{{with .status}}{{with .images}}{{$node}} {{len .}}
{{range .}}{{range .names}}{{$node}} {{.}}
{{end}}{{end}}{{end}}{{end}}{{end}}'
  : >"$scratch/names"
  [ -z "$nodes_known" ] || k_quiet get nodes -o go-template="$template" >"$scratch/names" || true
  awk -v registry="${REGISTRY:+$REGISTRY/}" 'NF != 2 { next }
    $2 ~ /^[0-9]+$/ { print; next }
    registry == "" { sub(/^(docker\.io|localhost)\//, "", $2) }
    registry != "" { if (index($2, registry) != 1) next; $2 = substr($2, length(registry) + 1) }
    $2 ~ /^petmesh\/[^@]*$/ { print $1, $2 }' "$scratch/names" >"$scratch/reported"
}

# $scratch/missing gets `node image` for every image that a usable node does not report.
find_missing() {
  local node image
  read_reported
  : >"$scratch/missing"
  while read -r node; do
    while read -r image; do
      grep -Fxq -- "$node $image" "$scratch/reported" || printf '%s %s\n' "$node" "$image" >>"$scratch/missing"
    done <"$scratch/images"
  done <"$scratch/usable"
}

# The images that some usable node does not report, in the order of the list; all of them where nodes cannot be read.
missing_images() {
  if [ -z "$nodes_known" ]; then
    cat "$scratch/images"
  else
    local image
    while read -r image; do
      if cut -d' ' -f2 "$scratch/missing" | grep -Fx -- "$image" >/dev/null; then printf '%s\n' "$image"; fi
    done <"$scratch/images"
  fi
}

# Whether the report of this node was cut off, so that what it does not name may still be there.
is_cut_off() {
  local count
  count=$(sed -nE "s/^$1 ([0-9]+)\$/\\1/p" "$scratch/reported" | head -n 1)
  [ "${count:-0}" -ge "$reported_at_most" ]
}
