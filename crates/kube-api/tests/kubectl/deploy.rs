//! What a deployment does with kubectl: apply, look, wait, change, scale and remove a whole manifest.

use kube_api::{Config, Node, Settle};
use serde_json::{Value, json};

use crate::cluster::{settings, with};

fn workload(kind: &str, name: &str, image: &str) -> Value {
    let containers = json!([{"name": name, "image": image, "ports": [{"containerPort": 8080, "name": "http"}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]);
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "mesh"},
        "spec": {"selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}})
}

fn manifest() -> Value {
    let of = |version: &str, kind: &str, name: &str, rest: Value| {
        let mut object =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "mesh"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    };
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "pet"});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 80}}});
    let rbac = "rbac.authorization.k8s.io/v1";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mesh"}},
        of("v1", "ServiceAccount", "sds", json!({})),
        of("v1", "ConfigMap", "envoy", json!({"data": {"envoy.yaml": "a: b"}})),
        of("v1", "Service", "ingress", json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})),
        workload("Deployment", "pet", "pet:1"),
        workload("DaemonSet", "proxy", "proxy:1"),
        of("policy/v1", "PodDisruptionBudget", "pet", json!({"spec": {"maxUnavailable": 1}})),
        of("networking.k8s.io/v1", "NetworkPolicy", "pet",
            json!({"spec": {"podSelector": {"matchLabels": {"app": "pet"}}}})),
        of("autoscaling/v2", "HorizontalPodAutoscaler", "pet",
            json!({"spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9, "metrics": [cpu]}})),
        of(rbac, "Role", "sds", json!({"rules": []})),
        of(rbac, "RoleBinding", "sds", json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role", "name": "sds"}, "subjects": [{"kind": "ServiceAccount", "name": "sds"}]})),
        of("batch/v1", "Job", "load", json!({"spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "load", "image": "load"}]}}}})),
    ]})
}

fn rolled_out() -> Config {
    Config { nodes: vec![Node::named("n1")], settle: Settle::RolledOut, ..settings() }
}

// Rows without their headings, padding and ages.
fn cells(output: &str) -> Vec<String> {
    let rows = output.lines().filter(|line| !line.is_empty() && !line.starts_with("NAME"));
    let ages = |word: &&str| !word.trim_end_matches('s').parse::<u32>().is_ok_and(|_| word.ends_with('s'));
    rows.map(|row| row.split_whitespace().filter(ages).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn every_kind_of_a_deployment_is_applied_shown_and_removed() {
    with(rolled_out(), |cluster| {
        let first = cluster.applied(&manifest(), &[]);
        assert_eq!(first.lines().filter(|line| line.ends_with(" created")).count(), 12, "{first}");
        let again = cluster.applied(&manifest(), &[]);
        assert_eq!(again.lines().filter(|line| line.ends_with(" unchanged")).count(), 12, "{again}");

        let kinds = "deploy,ds,job,pdb,netpol,hpa,cm,sa,role,rolebinding,svc";
        let shown = cells(&cluster.ok(&["get", kinds, "-n", "mesh"]));
        assert_eq!(
            shown,
            [
                "deployment.apps/pet 1/1 1 1",
                "daemonset.apps/proxy 1 1 1 1 1 <none>",
                "job.batch/load Running 0/1",
                "poddisruptionbudget.policy/pet N/A 1 0",
                "networkpolicy.networking.k8s.io/pet app=pet",
                "horizontalpodautoscaler.autoscaling/pet Deployment/pet cpu: <unknown>/80% 2 9 0",
                "configmap/envoy 1",
                "serviceaccount/sds 0",
                "role.rbac.authorization.k8s.io/sds",
                "rolebinding.rbac.authorization.k8s.io/sds Role/sds",
                "service/ingress NodePort 10.96.0.100 <none> 80:30000/TCP",
            ]
        );
        let wide = cluster.ok(&["get", "deploy,nodes", "-n", "mesh", "-o", "wide"]);
        assert_eq!(cells(&wide)[0], "deployment.apps/pet 1/1 1 1 pet pet:1 app=pet");
        assert!(
            cells(&wide)[1].starts_with("node/n1 Ready control-plane v1.36.0+kube-api 127.0.0.1"),
            "{wide}"
        );
        let all = cluster.ok(&["get", "all", "-n", "mesh", "-o", "name"]);
        assert_eq!(all.lines().filter(|name| name.starts_with("pod/")).count(), 2, "{all}");

        cluster.ok(&["delete", "namespace", "mesh", "--wait", "--timeout=60s"]);
        assert_eq!(cluster.ok(&["get", "ns", "-o", "name"]), "namespace/default\nnamespace/demo\n");
        assert_eq!(cluster.ok(&["get", "all,cm,sa,pdb,netpol,role", "-A", "-o", "name"]), "");
    })
    .await;
}

#[tokio::test]
async fn what_a_manifest_no_longer_names_goes_and_what_others_wrote_stays() {
    with(rolled_out(), |cluster| {
        cluster.applied(&manifest(), &[]);
        cluster.ok(&["scale", "deploy/pet", "-n", "mesh", "--replicas=3"]);
        let mut changed = workload("Deployment", "pet", "pet:2");
        changed["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap().remove(1);
        let preview = cluster.diff(&changed);
        assert!(
            preview.contains("-        image: pet:1") && preview.contains("+        image: pet:2"),
            "{preview}"
        );
        let before = cluster.server.store().resource_version();
        cluster.applied(&changed, &["--dry-run=server"]);
        assert_eq!(
            cluster.server.store().resource_version(),
            before,
            "neither diff nor a dry run changes anything"
        );

        assert_eq!(cluster.applied(&changed, &[]), "deployment.apps/pet configured\n");
        let deployment = cluster.server.store().get("deployments", "mesh", "pet").unwrap();
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "pet:2");
        assert_eq!(container["env"], json!([{"name": "A", "value": "1"}]));
        assert_eq!(container["ports"], json!([{"containerPort": 8080, "name": "http", "protocol": "TCP"}]));
        assert_eq!(deployment["spec"]["replicas"], 3, "the manifest never named it");
    })
    .await;
}

#[tokio::test]
async fn a_roll_out_is_waited_for_scaled_and_restarted() {
    with(rolled_out(), |cluster| {
        cluster.applied(&manifest(), &["--server-side"]);
        let pods = |cluster: &crate::cluster::Cluster| {
            cluster.ok(&["get", "pods", "-n", "mesh", "-l", "app=pet", "-o", "name"])
        };
        let wait = |what: &[&str]| cluster.ok(&[what, &["-n", "mesh", "--timeout=60s"]].concat());
        wait(&["rollout", "status", "deploy/pet"]);
        wait(&["rollout", "status", "ds/proxy"]);
        wait(&["wait", "--for=condition=Available", "deploy/pet"]);
        wait(&["wait", "--for=condition=Ready", "pod", "-l", "app=pet"]);
        let first = pods(cluster);
        cluster.ok(&["rollout", "restart", "deploy/pet", "-n", "mesh"]);
        wait(&["rollout", "status", "deploy/pet"]);
        assert_ne!(pods(cluster), first, "a restart makes new Pods");
        cluster.ok(&["scale", "deploy/pet", "-n", "mesh", "--replicas=4"]);
        assert_eq!(pods(cluster).lines().count(), 4);
        cluster.ok(&["scale", "deploy/pet", "-n", "mesh", "--replicas=1"]);
        assert_eq!(pods(cluster).lines().count(), 1);
        cluster.ok(&["delete", "deploy", "-n", "mesh", "-l", "none=such"]);
        assert_eq!(pods(cluster).lines().count(), 1, "nothing has that label");
        cluster.ok(&["label", "deploy/pet", "-n", "mesh", "app=pet"]);
        cluster.ok(&["delete", "deploy", "-n", "mesh", "-l", "app=pet"]);
        assert_eq!(pods(cluster), "", "they go with their owner");
    })
    .await;
}

#[tokio::test]
async fn typed_clients_send_protobuf() {
    with(settings(), |cluster| {
        cluster.ok(&["create", "namespace", "made"]);
        cluster.ok(&["create", "configmap", "c", "-n", "made", "--from-literal=key=value"]);
        cluster.ok(&["create", "secret", "generic", "s", "-n", "made", "--from-literal=key=v>?"]);
        cluster.ok(&["create", "quota", "q", "-n", "made", "--hard=pods=4,requests.cpu=500m"]);
        cluster.ok(&["create", "role", "r", "-n", "made", "--verb=list", "--resource=pods"]);
        let store = cluster.server.store();
        let get = |kind: &str, name: &str| store.get(kind, "made", name).unwrap();
        assert_eq!(get("configmaps", "c")["data"], json!({"key": "value"}));
        assert_eq!(get("secrets", "s")["data"], json!({"key": "dj4/"}));
        assert_eq!(get("resourcequotas", "q")["spec"]["hard"], json!({"pods": "4", "requests.cpu": "500m"}));
        assert_eq!(
            get("roles", "r")["rules"],
            json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}])
        );
        let refused = cluster.refused(&["create", "deployment", "d", "--image=x", "-n", "made"]);
        assert!(refused.contains("--dry-run=client -o yaml | kubectl apply -f -"), "{refused}");
    })
    .await;
}
