# shellcheck shell=bash disable=SC2154,SC2153 # variables of mesh.sh and of the other parts
# undeploy: takes away what deploy created, and nothing else.
#
# The namespace goes only where it is ours by its label and holds nothing of anybody else.

undeploy_command() {
  trap interrupted_undeploy INT TERM
  connect
  refuse_production
  say "context:   $context"
  say "server:    $server (Kubernetes $server_version)"
  say "namespace: $NAMESPACE"
  if end_forward; then say "port-forward ended"; fi
  read_namespace
  case "$namespace_state" in
    absent)
      forget_generated
      say "nothing to do: there is no namespace $NAMESPACE"
      ;;
    terminating) await_deleted ;;
    ours | foreign) delete_ours ;;
  esac
  say_what_stays
}

# Images belong to the nodes and not to the cluster: no kubectl removes them.
say_what_stays() {
  read_images || return 0
  say "left: the images petmesh/* on the nodes, until a kubelet needs the space; on a node: sudo crictl rmi IMAGE"
}

interrupted_undeploy() {
  trap - INT TERM
  printf '\ninterrupted: the cluster goes on deleting what it was told to; make undeploy again waits for the rest\n' >&2
  exit 130
}

delete_ours() {
  others='' others_unknown=''
  read_deployed
  [ "$namespace_state" != ours ] || find_others
  if [ "$namespace_state" = ours ] && [ -z "$others$others_unknown" ]; then
    k_quiet delete namespace "$NAMESPACE" --wait=false >/dev/null ||
      die "the namespace $NAMESPACE cannot be deleted: $(complaint "$scratch/stderr")" "ask the cluster's administrator for the right to delete it"
    await_deleted
    return
  fi
  if [ ! -s "$scratch/deployed" ]; then
    forget_generated
    say "nothing to do: namespace $NAMESPACE holds nothing of the mesh"
  else
    delete_objects
    forget_generated
  fi
  if [ -n "$others_unknown" ]; then
    say "the namespace $NAMESPACE stays, because its other objects cannot be listed: $others_unknown; if it is not in use: kubectl delete namespace $NAMESPACE"
  elif [ -n "$others" ]; then
    say "the namespace $NAMESPACE stays, because it holds what deploy did not create: $(one_line "$others")"
  else
    say "the namespace $NAMESPACE stays: deploy did not create it"
  fi
}

# The objects one kind after another, then their pods.
delete_objects() {
  local kind name deadline pods
  while read -r _ kind name _; do
    k_quiet delete "$(resource_of "$kind")" "$name" -n "$NAMESPACE" --wait=false --ignore-not-found </dev/null | sed 's/^/  /' ||
      die "$kind $name cannot be deleted: $(complaint "$scratch/stderr")" "fix that, then make undeploy again"
  done <"$scratch/deployed"
  deadline=$(($(now) + TIMEOUT))
  while :; do
    pods=$(k_quiet get pods -n "$NAMESPACE" -l "$ours" -o name | wc -l) || pods=0
    [ "$pods" -gt 0 ] || break
    [ "$(now)" -lt "$deadline" ] || die "$(count_of "$((pods))" pod) of the mesh did not end within $TIMEOUT s" "kubectl get pods -n $NAMESPACE shows them; make undeploy again waits on"
    progress "waiting for $(count_of "$((pods))" pod) to end"
    sleep 1
  done
}

await_deleted() {
  local deadline pods holds
  deadline=$(($(now) + TIMEOUT))
  while :; do
    read_namespace
    [ "$namespace_state" != absent ] || break
    if [ "$(now)" -ge "$deadline" ]; then
      holds=$(namespace_holds)
      die "namespace $NAMESPACE is still there after $TIMEOUT s, held by: ${holds:-nothing that the API names}" "whoever set those finalizers has to finish (kubectl describe namespace $NAMESPACE tells who), then make undeploy again"
    fi
    pods=$(k_quiet get pods -n "$NAMESPACE" -o name | wc -l) || pods=0
    progress "namespace $NAMESPACE is being deleted, $(count_of "$((pods))" pod) left"
    sleep 1
  done
  forget_generated
  say "gone: namespace $NAMESPACE and everything that deploy created"
}

others='' others_unknown='' # the objects of others in our namespace, and why they are not known

# What somebody else put into our namespace: objects of any kind without our labels and without an owner. What the
# cluster itself puts into every namespace does not count, nor what only reports on other objects.
find_others() {
  local kinds template
  # One API service of others that is down makes this fail as well; its objects may be somebody's.
  k_quiet api-resources --verbs=list,delete --namespaced=true -o name >"$scratch/kinds" || {
    others_unknown=$(complaint "$scratch/stderr")
    return
  }
  kinds=$(grep -Ev '^(events|events\.events\.k8s\.io|endpoints|bindings|leases\.coordination\.k8s\.io|controllerrevisions\.apps|.*\.metrics\.k8s\.io)$' "$scratch/kinds" |
    tr '\n' ',' | sed 's/,$//') || true
  if [ -z "$kinds" ]; then
    others_unknown='the API server names no kinds of objects'
    return
  fi
  template='{{range .items}}{{if not .metadata.ownerReferences}}{{.kind}}/{{.metadata.name}}{{if eq .kind "Secret"}} {{.type}}{{end}}
{{end}}{{end}}'
  k_quiet get "$kinds" -n "$NAMESPACE" -l 'app.kubernetes.io/part-of!=petmesh' -o go-template="$template" >"$scratch/others" || {
    others_unknown=$(complaint "$scratch/stderr")
    return
  }
  others=$(grep -Ev '^(ServiceAccount/(default|builder|deployer)|ConfigMap/(kube-root-ca\.crt|openshift-service-ca\.crt|istio-ca-root-cert)|RoleBinding/system:.*|Secret/.* kubernetes\.io/(service-account-token|dockercfg))$' "$scratch/others" |
    sed 's/ .*//') || true
}

forget_generated() {
  rm -f "$generated/kustomization.yaml"
  rmdir "$generated" 2>/dev/null || true
}
