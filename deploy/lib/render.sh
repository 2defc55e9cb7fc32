# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# The overlay that is applied: the one of deploy/overlays with the tags of our images, in a git-ignored folder.
#
# $scratch/rendering.yaml gets the manifests, $scratch/objects a line `apiVersion kind name` an
# object.

# $1: `foreign` if the namespace is somebody else's. Then the objects that hold for all of its pods are left out.
write_overlay() {
  local name tag kind
  mkdir -p "$generated" 2>/dev/null || die "$generated cannot be written" "make the folder writable"
  {
    printf '# Written by deploy/mesh.sh; the next deploy writes it anew.\n'
    printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n'
    printf 'namespace: %s\n' "$NAMESPACE"
    printf 'resources:\n  - %s\n' "$(overlay_path)"
    printf 'labels:\n  - pairs:\n      app.kubernetes.io/part-of: petmesh\n      app.kubernetes.io/managed-by: kustomize\n'
    if [ -s "$scratch/images" ]; then
      printf 'images:\n'
      while IFS=: read -r name tag; do
        printf '  - name: %s\n    newTag: "%s"\n' "$name" "$tag"
        [ -z "$REGISTRY" ] || printf '    newName: %s/%s\n' "$REGISTRY" "$name"
      done <"$scratch/images"
    fi
    if [ "$1" = foreign ] || [ -n "$one_of_several" ]; then printf 'patches:\n'; fi
    if [ -n "$one_of_several" ]; then
      for kind in Deployment DaemonSet; do
        printf '  - target:\n      kind: %s\n    patch: |\n      apiVersion: apps/v1\n      kind: %s\n' "$kind" "$kind"
        printf '      metadata:\n        name: any\n      spec:\n        template:\n          spec:\n'
        printf '            nodeSelector:\n              kubernetes.io/arch: %s\n' "$ARCH"
      done
    fi
    if [ "$1" = foreign ]; then
      for kind in Namespace ResourceQuota LimitRange; do
        # shellcheck disable=SC2016 # kustomize's own dollar sign
        printf '  - target:\n      kind: %s\n    patch: |\n      $patch: delete\n' "$kind"
        printf '      apiVersion: v1\n      kind: %s\n      metadata:\n        name: any\n' "$kind"
      done
    fi
  } >"$generated/kustomization.yaml" || die "$generated/kustomization.yaml cannot be written" "make the folder writable"
}

# kustomize wants a relative path: up to the root of the file system and down again, unless the folders are neighbours.
overlay_path() {
  local from up=
  if [ "$generated" = "$root/deploy/generated" ] && [ "$overlay_folder" = "$root/deploy/overlays/$OVERLAY" ]; then
    printf '../overlays/%s' "$OVERLAY"
    return
  fi
  from=$(cd "$generated" && pwd -P)
  while [ "$from" != / ]; do
    up="../$up" from=$(dirname "$from")
  done
  printf '%s%s' "$up" "$(cd "$overlay_folder" && pwd -P | cut -c2-)"
}

render() {
  "${kubectl_words[@]}" kustomize "$generated" >"$scratch/rendering.yaml" 2>"$scratch/stderr" ||
    die "the overlay $OVERLAY cannot be rendered: $(complaint "$scratch/stderr")" "fix $overlay_folder; kubectl kustomize $generated shows it"
  awk '/^---/ { print version, kind, name; version = kind = name = "" }
    /^apiVersion: / { version = $2 }
    /^kind: / { kind = $2 }
    /^metadata:/ { metadata = 1; next }
    /^[^ ]/ { metadata = 0 }
    metadata && /^  name: / { name = $2 }
    END { print version, kind, name }' "$scratch/rendering.yaml" | sed '/^ *$/d' >"$scratch/objects"
}

# Kinds to the names that `kubectl get` and `kubectl auth can-i` take.
resource_of() {
  case "$1" in
    Deployment | DaemonSet) printf '%ss.apps' "$(lower "$1")" ;;
    PodDisruptionBudget) printf 'poddisruptionbudgets.policy' ;;
    NetworkPolicy) printf 'networkpolicies.networking.k8s.io' ;;
    HorizontalPodAutoscaler) printf 'horizontalpodautoscalers.autoscaling' ;;
    Role | RoleBinding | ClusterRole | ClusterRoleBinding) printf '%ss.rbac.authorization.k8s.io' "$(lower "$1")" ;;
    *) printf '%ss' "$(lower "$1")" ;;
  esac
}

lower() {
  printf '%s' "$1" | tr '[:upper:]' '[:lower:]'
}

# The kinds that deploys have ever put into a namespace, for pruning and undeploy.
namespaced_kinds="configmaps services serviceaccounts deployments.apps daemonsets.apps poddisruptionbudgets.policy \
roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io networkpolicies.networking.k8s.io \
horizontalpodautoscalers.autoscaling resourcequotas limitranges"

# $scratch/deployed gets a line `apiVersion kind name unchanged_since` for each of our objects in the namespace. An object
# with an owner is its owner's business. The version of a PodDisruptionBudget moves with each pod that comes or goes, so what
# was applied to it counts instead.
read_deployed() {
  local served kinds='' kind template
  served=$(k_quiet api-resources --verbs=list --namespaced=true -o name) ||
    [ -n "$served" ] || die "$server does not tell its kinds: $(complaint "$scratch/stderr")" "see that the API server is well: kubectl api-resources"
  for kind in $namespaced_kinds; do
    if grep -Fxq -- "$kind" <<<"$served"; then kinds="$kinds${kinds:+,}$kind"; fi
  done
  template='{{range .items}}{{if not .metadata.ownerReferences}}{{.apiVersion}} {{.kind}} {{.metadata.name}} {{if eq .kind "PodDisruptionBudget"}}{{.metadata.generation}} {{with .metadata.annotations}}{{with index . "kubectl.kubernetes.io/last-applied-configuration"}}{{printf "%q" .}}{{end}}{{end}}{{else}}{{.metadata.resourceVersion}}{{end}}
{{end}}{{end}}'
  k_quiet get "$kinds" -n "$NAMESPACE" -l "$ours" -o go-template="$template" >"$scratch/deployed" ||
    die "the objects of namespace $NAMESPACE cannot be listed: $(complaint "$scratch/stderr")" "see that your credentials may list them, then try again"
}
