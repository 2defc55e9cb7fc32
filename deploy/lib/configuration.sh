# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# The Envoy files: validated before they are applied, and which proxies have refused the one that they were given.
#
# A proxy that runs refuses a file with an error and serves on with the old one; a proxy that
# starts has no old one and ends. So such a file waits for the next restart.

# Has the proxy of the images read every Envoy file of the rendering, deploy/config's and the overlay's.
validate_files() {
  local file map problem=
  proxy_of_images || return 0
  split_files
  for file in "$scratch"/files/*; do
    [ -f "$file" ] || continue
    if "$scratch/proxy" --mode validate -c "$file" >"$scratch/answer" 2>&1 </dev/null; then continue; fi
    # What it says otherwise is about this machine and not about the file.
    grep '^error' "$scratch/answer" >/dev/null || continue
    map=${file##*/}
    sed "s#$file#$(source_of "$file")#; s/^/  /" "$scratch/answer"
    [ -n "$problem" ] || problem="$(first_error "$(source_of "$file")" <"$scratch/answer") (config map ${map%.*})"
  done
  [ -z "$problem" ] || die "the proxy refuses a configuration of this deploy: $problem" "fix that file; nothing was applied"
}

# $scratch/proxy gets the program of the image. False where there is none or it does not run on this machine.
proxy_of_images() {
  local archive layer
  archive=$(archive_of petmesh/proxy)
  [ -f "$archive" ] || return 1
  layer=$(tar -xOf "$archive" manifest.json 2>/dev/null | sed -nE 's/.*"Layers": *\["([^"]+)"\].*/\1/p') || true
  [ -n "$layer" ] || return 1
  tar -xOf "$archive" "$layer" 2>/dev/null | tar -xOf - proxy >"$scratch/proxy" 2>/dev/null || return 1
  chmod +x "$scratch/proxy"
  if "$scratch/proxy" --version >/dev/null 2>&1 </dev/null; then return 0; fi
  note "the Envoy files are not validated before the deploy, as the proxy of the images does not run on this machine"
  return 1
}

# $scratch/files gets each file of the rendering's config maps for proxies.
split_files() {
  local template
  rm -rf "$scratch/files"
  mkdir "$scratch/files"
  # shellcheck disable=SC2016 # the dollar signs are the template's
  template='{{if eq .kind "ConfigMap"}}{{$map := .metadata.name}}{{range $key, $text := .data}}{{if or (eq $key "envoy.yaml") (eq $key "envoy.json")}}
#petmesh-file {{$map}} {{$key}}
{{$text}}{{end}}{{end}}{{end}}'
  k_quiet create --dry-run=client --validate=false -f "$scratch/rendering.yaml" -o go-template="$template" |
    awk -v folder="$scratch/files" '$1 == "#petmesh-file" { file = folder "/" $2 ($3 ~ /json$/ ? ".json" : ".yaml"); next }
      file != "" { print >file }' || true
}

# Where the user edits a file: the one of deploy/ or of the overlay with the same text. $1: the copy.
source_of() {
  local text candidate
  text=$(cat "$1")
  for candidate in "$root"/deploy/config/*.yaml "$root"/deploy/components/*/envoy.yaml "$overlay_folder"/*; do
    if [ -f "$candidate" ] && [ "$(cat "$candidate")" = "$text" ]; then
      printf '%s' "${candidate#"$root"/}"
      return
    fi
  done
  printf '%s' "${1##*/}"
}

# The first error of the proxy's, in one line: file:line:column: what. $1: the file.
first_error() {
  awk -v file="$1" '/^error/ && !what { what = $0; sub(/^error(\[[^]]*\])?: /, "", what) }
    /^ *--> / && what && !place { n = split($2, part, ":"); if (n > 2) place = part[n - 1] ":" part[n] }
    END { print file (place ? ":" place : "") ": " what }'
}

# $scratch/refused gets a line `pod|container|config map|first error` for each proxy whose last word on its configuration,
# within `since`, is a refusal; a proxy repeats it once a minute. False where the logs cannot be read.
since=150s
read_refused() {
  local template pod container problem map
  : >"$scratch/refused"
  k_quiet logs -n "$NAMESPACE" -l "$ours,petmesh.dev/proxy" --all-containers --prefix --ignore-errors \
    --since="$since" --tail=-1 --max-log-requests=100 >"$scratch/logs" || return 1
  awk '
    { source = $1; gsub(/^\[pod\/|\]$/, "", source); line = substr($0, length($1) + 2) }
    line ~ /^[0-9T:.Z-]+ +[A-Z]+ .*configuration (refused|changed)/ {
      refused[source] = line ~ /configuration refused/
      text[source] = error[source] = ""
      if (line ~ /configuration refused:/) { text[source] = line; sub(/^.*configuration refused: */, "", text[source]) }
      next
    }
    refused[source] && text[source] == "" && line ~ /^error/ { sub(/^error(\[[^]]*\])?: /, "", line); error[source] = line; next }
    refused[source] && text[source] == "" && error[source] != "" && line ~ /^ *--> / { text[source] = substr(line, index(line, "-->") + 4) ": " error[source] }
    END {
      for (source in refused) if (refused[source]) {
        split(source, part, "/")
        print part[1] "|" part[2] "|" (text[source] != "" ? text[source] : "make logs CONTAINER=" part[2] " shows the error")
      }
    }' "$scratch/logs" | sort >"$scratch/refusing"
  if [ -s "$scratch/refusing" ]; then
    # shellcheck disable=SC2016 # the dollar signs are the template's
    template='{{range .items}}{{$pod := .metadata.name}}{{range .spec.volumes}}{{with .configMap}}{{$pod}} {{.name}}
{{end}}{{end}}{{end}}'
    k_quiet get pods -n "$NAMESPACE" -l "$ours,petmesh.dev/proxy" -o go-template="$template" >"$scratch/maps" || : >"$scratch/maps"
    while IFS='|' read -r pod container problem; do
      map=$(sed -nE "s/^$pod (.*)\$/\\1/p" "$scratch/maps" | head -n 1)
      printf '%s|%s|%s|%s\n' "$pod" "$container" "$map" "$problem"
    done <"$scratch/refusing" >"$scratch/refused"
  fi
  # kubectl leaves out what it cannot read, with a line that says so.
  if grep -m 1 '^error: ' "$scratch/logs" >"$scratch/stderr" && ! grep -m 1 '^\[pod/' "$scratch/logs" >/dev/null; then return 1; fi
}

# What puts a refused configuration right.
refused_remedy() {
  printf 'they serve on with the old one, and each pod that starts with the new one will crash: make deploy puts the files of deploy/config back, or correct it: kubectl -n %s edit configmap %s; the proxies read it within a minute or so' \
    "$NAMESPACE" "$(one_line "$(cut -d'|' -f3 "$scratch/refused" | sort -u)")"
}

# After a deploy: the files are right again, and a kubelet may take a minute to bring them to the pods that run.
warn_of_refusals() {
  read_refused || return 0
  [ -s "$scratch/refused" ] || return 0
  local pod container map problem
  while IFS='|' read -r pod container map problem; do
    printf '  ! %s (%s): configuration refused%s: %s\n' "$pod" "$container" "${map:+, config map $map}" "$problem"
  done <"$scratch/refused"
  note "these proxies were given another file, which a pod that starts would not survive; this deploy has put it back, and the kubelet brings it within a minute or so: make status tells"
}
