# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# deploy: all checks, images, dry run, apply, wait, prune, and a curl that works.
#
# Client-side apply, because it tells "unchanged" from "configured" and, by the annotation that it
# leaves, removes fields that the manifests no longer have; server-side apply says
# "serverside-applied" of everything. No other tool owns fields of these objects.

deploy_command() {
  trap interrupted INT TERM
  preflight_cluster
  [ -n "$build" ] || need_images
  preflight_deploy
  ready_images
  prepare_files
  validate_files
  load_images
  dry_run
  apply
  await_rollout
  prune
  warn_of_refusals
  say "try:"
  find_address
  printf '  %s\n' "$curl_command"
}

stage=checks
interrupted() {
  trap - INT TERM
  case "$stage" in
    checks) printf '\ninterrupted: nothing was applied\n' >&2 ;;
    *) printf '\ninterrupted during %s: what has been applied stays and goes on without this command; make deploy goes on from there, make undeploy removes it\n' "$stage" >&2 ;;
  esac
  exit 130
}

# The whole rendering through the API server's validation and admission. Objects of a namespace can be tried only in a
# namespace that exists: a new one is created before, and taken back if the rest is refused.
dry_run() {
  local created='' problem=''
  if [ "$namespace_state" = absent ]; then
    only_namespace >"$scratch/namespace.yaml"
    try_to "$scratch/namespace.yaml" --dry-run=server || refused
    stage="the dry run"
    try_to "$scratch/namespace.yaml" || refused
    created=yes
    say "  namespace/$NAMESPACE created"
  fi
  if ! try_to "$scratch/rendering.yaml" --dry-run=server; then
    problem=yes
  elif grep -F 'would violate PodSecurity' "$scratch/stderr" >"$scratch/violations"; then
    sed -nE 's/^Warning: //p' "$scratch/violations" | head -n 1 >"$scratch/stderr"
    problem=yes
  fi
  if [ -n "$problem" ]; then
    [ -z "$created" ] || k delete namespace "$NAMESPACE" --wait=false >/dev/null 2>&1 || true
    refused
  fi
}

# The Namespace alone, as rendered.
only_namespace() {
  awk 'function flush() { if (kind == "Namespace") printf "%s", text; text = kind = "" }
    /^---/ { flush(); next }
    /^kind: / { kind = $2 }
    { text = text $0 "\n" }
    END { flush() }' "$scratch/rendering.yaml"
}

# $1: a file; the rest: more options. A server whose OpenAPI document cannot be read (kubectl looks at it for the names of
# fields) can be used all the same: CI checks the manifests against the schemas.
try_to() {
  local file=$1
  shift
  if request_timeout=30s k apply -f "$file" --validate="$validate" "$@" >"$scratch/applied" 2>"$scratch/stderr"; then return 0; fi
  if [ "$validate" != strict ] || ! grep -F 'failed to download openapi' "$scratch/stderr" >/dev/null; then return 1; fi
  note "the OpenAPI document of $server cannot be read: the names of fields are not checked against it"
  validate=ignore
  request_timeout=30s k apply -f "$file" --validate="$validate" "$@" >"$scratch/applied" 2>"$scratch/stderr"
}
validate=strict

refused() {
  local problem remedy="see what the cluster demands, or choose another cluster or NAMESPACE; nothing was applied"
  problem=$(complaint "$scratch/stderr")
  case "$problem" in
    *"already allocated"*) remedy="let the cluster choose the node port: OVERLAY=generic; nothing was applied" ;;
    *"exceeded quota"*) remedy="$(quota_remedy "$problem"), or choose another NAMESPACE; nothing was applied" ;;
    *PodSecurity*) remedy="choose a namespace that enforces at most restricted in a version that the manifests meet (NAMESPACE=name); nothing was applied" ;;
    *orbidden* | *"cannot create"* | *"cannot patch"*) remedy="ask the cluster's administrator for it, or choose another CONTEXT; nothing was applied" ;;
    *"no matches for kind"*) remedy="this cluster does not serve that kind: upgrade it, or choose another OVERLAY; nothing was applied" ;;
    *webhook*) remedy="an admission webhook of this cluster refused it: ask whoever installed it; nothing was applied" ;;
    *"is immutable"*) remedy="deploy it beside the old one (NAMESPACE=other), or remove the old mesh, which ends its requests: make undeploy; nothing was applied" ;;
  esac
  die "$server refuses the manifests: $problem" "$remedy"
}

apply() {
  local unchanged
  stage="the apply"
  read_deployed
  mv "$scratch/deployed" "$scratch/before"
  if ! try_to "$scratch/rendering.yaml"; then
    cat "$scratch/applied"
    die "the apply broke off: $(complaint "$scratch/stderr")" "what has been applied stays: fix that and run make deploy again, or make undeploy"
  fi
  sed -nE '/^Warning:/p' "$scratch/stderr" >&2
  if grep ' configured$' "$scratch/applied" >/dev/null; then correct_configured; fi
  sed -nE '/ unchanged$/!s/^/  /p' "$scratch/applied"
  unchanged=$(grep -c ' unchanged$' "$scratch/applied") || true
  say "applied: $(($(wc -l <"$scratch/applied") - unchanged)) changed, $unchanged unchanged"
  stage="the roll-out"
}

# kubectl says "configured" of a PodDisruptionBudget always, because its patch replaces the selector even by an equal one.
# An object is unchanged when its `unchanged_since` is (`read_deployed`).
correct_configured() {
  read_deployed
  awk 'NR == FNR { old[$0] = 1; next }
    $0 in old { print $1, $2, $3 }' "$scratch/before" "$scratch/deployed" |
    awk '{ group = $1; if (!sub(/\/.*/, "", group)) group = ""; print tolower($2) (group == "" ? "" : "." group) "/" $3 }' >"$scratch/same"
  [ -s "$scratch/same" ] || return 0
  awk 'NR == FNR { same[$1] = 1; next }
    $2 == "configured" && $1 in same { print $1, "unchanged"; next }
    { print }' "$scratch/same" "$scratch/applied" >"$scratch/corrected"
  mv "$scratch/corrected" "$scratch/applied"
}

# Deletes what an earlier deploy left and this one no longer has, for example config maps with another hash. Only after the
# roll-out: until then old pods may need them.
prune() {
  local version kind name
  read_deployed
  while read -r version kind name _; do
    if ! grep -Fxq -- "$version $kind $name" "$scratch/objects"; then
      k_quiet delete "$(resource_of "$kind")" "$name" -n "$NAMESPACE" --wait=false </dev/null |
        sed -E 's/^/  /; s/ deleted.*/ deleted: no longer part of the mesh/' ||
        note "$kind $name is no longer needed and could not be deleted: $(complaint "$scratch/stderr")"
    fi
  done <"$scratch/deployed"
}
