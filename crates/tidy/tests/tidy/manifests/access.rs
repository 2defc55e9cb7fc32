//! Who may ask Kubernetes, and who may call whom.

use serde_json::{Value, json};
use tidy::Findings;

use super::each;
use super::rendered::{Rendered, Workload, list, selects};

#[test]
fn nobody_but_sds_has_a_token() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads() {
            if workload.pod["automountServiceAccountToken"] != false {
                findings.add(format!("{}: say automountServiceAccountToken: false", workload.place));
            }
            let sources =
                list(&workload.pod["volumes"]).flat_map(|volume| list(&volume["projected"]["sources"]));
            let tokens: Vec<&Value> = sources
                .map(|source| &source["serviceAccountToken"])
                .filter(|token| !token.is_null())
                .collect();
            let expected = if workload.name == "sds" {
                vec![json!({ "path": "token", "expirationSeconds": 3600 })]
            } else {
                vec![]
            };
            if tokens != expected.iter().collect::<Vec<_>>() {
                findings.add(format!("{}: tokens {tokens:?}, expected {expected:?}", workload.place));
            }
            if (workload.pod["serviceAccountName"] == "sds") != (workload.name == "sds") {
                findings.add(format!("{}: the account sds is for sds alone", workload.place));
            }
        }
    })
}

#[test]
fn sds_may_list_and_watch_slices_and_nothing_else() -> Result<(), Findings> {
    each(|file, findings| {
        let mut rules = Vec::new();
        for object in &file.objects {
            match object["kind"].as_str() {
                Some("ClusterRole" | "ClusterRoleBinding") => {
                    findings.add(format!("{}: rights end at the namespace", file.of(object)));
                }
                Some("Role") => rules.extend(list(&object["rules"])),
                Some("RoleBinding") => {
                    let namespace = &object["metadata"]["namespace"];
                    let subject =
                        json!([{ "kind": "ServiceAccount", "name": "sds", "namespace": namespace }]);
                    if object["subjects"] != subject || object["roleRef"]["kind"] != "Role" {
                        findings.add(format!("{}: expected the Role sds for {subject}", file.of(object)));
                    }
                }
                _ => {}
            }
        }
        let slices = json!({ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] });
        if file.is_mesh() && rules != [&slices] {
            findings.add(format!("{}: rules {rules:?}, expected {slices}", file.path));
        }
    })
}

#[test]
fn services_lead_to_their_pods_and_say_whether_a_sidecar_is_there() -> Result<(), Findings> {
    each(|file, findings| {
        let workloads = file.workloads();
        for service in file.of_kind("Service") {
            let (place, spec) = (file.of(service), &service["spec"]);
            if spec["type"] == "LoadBalancer" || spec["type"] == "ExternalName" {
                findings
                    .add(format!("{place}: {}: it may stay pending for ever; use NodePort", spec["type"]));
            }
            let Some(workload) =
                workloads.iter().find(|workload| selects(&spec["selector"], workload.labels))
            else {
                findings.add(format!("{place}: selects no pods of this file"));
                continue;
            };
            let ports: Vec<&Value> = list(&spec["ports"]).map(|port| &port["targetPort"]).collect();
            let open: Vec<&Value> = workload
                .containers()
                .into_iter()
                .flat_map(|container| list(&container["ports"]))
                .map(|port| &port["containerPort"])
                .collect();
            for port in ports.iter().filter(|port| !open.contains(port)) {
                findings.add(format!("{place}: no container names port {port}"));
            }
            let sidecar = workload.sidecar().is_some();
            let label = if sidecar { "true" } else { "false" };
            if service["metadata"]["labels"]["petmesh.dev/sidecar"] != label
                || sidecar != (ports == [&json!(10000)] && workload.name != "ingress")
            {
                findings.add(format!(
                    "{place}: label petmesh.dev/sidecar and ports {ports:?}: the pods' sidecar is {sidecar}"
                ));
            }
        }
    })
}

/// Who is admitted to which port, for each pod: what the policies say together.
#[test]
fn only_the_mesh_reaches_services_and_sds() -> Result<(), Findings> {
    each(|file, findings| {
        if !file.is_overlay() {
            return;
        }
        let policies: Vec<&Value> = file.of_kind("NetworkPolicy").collect();
        for workload in file.workloads() {
            let denied = policies.iter().any(|policy| {
                selects(&policy["spec"]["podSelector"]["matchLabels"], workload.labels)
                    && policy["spec"]["ingress"].is_null()
            });
            if !denied {
                findings.add(format!("{}: no policy denies by default", workload.place));
            }
        }
        // The namespace may be somebody else's.
        for policy in policies.iter().filter(|policy| policy["spec"]["podSelector"] == json!({})) {
            let name = &policy["metadata"]["name"];
            findings.add(format!("{}: {name} selects the pods of others as well", file.path));
        }
        let mesh = json!([{ "podSelector": { "matchExpressions": [{ "key": "petmesh.dev/proxy", "operator": "Exists" }] } }]);
        for (name, from, ports) in [
            ("pet", &mesh, vec![10000]),
            ("petstore", &mesh, vec![10000]),
            ("sds", &mesh, vec![8080]),
            ("ingress", &Value::Null, vec![10000]),
        ] {
            let found = admitted(file, name, &policies);
            let expected: Vec<(&Value, u64)> = ports.into_iter().map(|port| (from, port)).collect();
            if found != expected {
                findings.add(format!("{}: {name} admits {found:?}, expected {expected:?}", file.path));
            }
        }
        for workload in file.workloads() {
            let labelled = !workload.labels["petmesh.dev/proxy"].is_null();
            if labelled != (workload.name != "sds") {
                findings.add(format!(
                    "{}: label petmesh.dev/proxy is for pods with a proxy, and for all of them",
                    workload.place
                ));
            }
        }
    })
}

fn admitted<'a>(file: &Rendered, name: &str, policies: &[&'a Value]) -> Vec<(&'a Value, u64)> {
    let workloads = file.workloads();
    let Some(workload) = workloads.iter().find(|workload| workload.name == name) else { return Vec::new() };
    let selecting = policies
        .iter()
        .filter(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"], workload.labels));
    let rules = selecting.flat_map(|policy| list(&policy["spec"]["ingress"]));
    rules
        .flat_map(|rule| {
            list(&rule["ports"]).filter_map(|port| Some((&rule["from"], port["port"].as_u64()?)))
        })
        .collect()
}

/// A policy of somebody else's may deny everything in the namespace: what ours admit is enough for the mesh, and little more.
#[test]
fn the_mesh_works_where_everything_is_denied() -> Result<(), Findings> {
    each(|file, findings| {
        let policies: Vec<&Value> = file.of_kind("NetworkPolicy").collect();
        if !policies.iter().any(|policy| policy["metadata"]["name"] == "default-deny") {
            return;
        }
        let workloads = file.workloads();
        let mut flow = |from: &Workload<'_>, to: Option<&Workload<'_>>, protocol, port, wanted| {
            let sent =
                policies.iter().any(|policy| admits(policy, "egress", from.labels, to, protocol, port));
            let taken = to.is_none_or(|to| {
                policies.iter().any(|policy| admits(policy, "ingress", to.labels, Some(from), protocol, port))
            });
            if (sent && taken) != wanted {
                let to = to.map_or("an address outside of the namespace", |to| to.name);
                let what = if wanted { "must reach" } else { "must not reach" };
                findings.add(format!("{}: {what} {to}, {protocol} port {port}", from.place));
            }
        };
        for from in &workloads {
            for protocol in ["UDP", "TCP"] {
                flow(from, None, protocol, 53, true);
            }
            for port in [443, 6443, 8443] {
                flow(from, None, "TCP", port, from.name == "sds");
            }
            let proxy = !from.labels["petmesh.dev/proxy"].is_null();
            let service = from.labels["app.kubernetes.io/component"] == "service";
            for to in workloads.iter().filter(|to| to.name != from.name) {
                match to.name {
                    "sds" => flow(from, Some(to), "TCP", 8080, proxy),
                    "pet" | "petstore" if to.sidecar().is_some() => {
                        flow(from, Some(to), "TCP", 10000, proxy);
                        flow(from, Some(to), "TCP", 8080, false);
                    }
                    "pet" | "petstore" => flow(from, Some(to), "TCP", 8080, proxy),
                    "node-proxy" => flow(from, Some(to), "TCP", 9900, service),
                    "zipkin" => flow(from, Some(to), "TCP", 9411, service),
                    _ => {}
                }
            }
        }
    })
}

/// Whether a policy admits this at the pods with these labels. `peer`: the other side; none where it is no pod.
fn admits(
    policy: &Value,
    direction: &str,
    labels: &Value,
    peer: Option<&Workload<'_>>,
    protocol: &str,
    port: u64,
) -> bool {
    let of = |selector: &Value, labels: &Value| {
        let exist = list(&selector["matchExpressions"]).all(|term| {
            term["operator"] == "Exists" && term["key"].as_str().is_some_and(|key| !labels[key].is_null())
        });
        exist && (selector["matchLabels"].is_null() || selects(&selector["matchLabels"], labels))
    };
    let peers = if direction == "egress" { "to" } else { "from" };
    of(&policy["spec"]["podSelector"], labels)
        && list(&policy["spec"][direction]).any(|rule| {
            let at = rule["ports"].is_null()
                || list(&rule["ports"])
                    .any(|one| one["protocol"] == protocol && (one["port"].is_null() || one["port"] == port));
            let who = rule[peers].is_null()
                || list(&rule[peers])
                    .any(|one| peer.is_some_and(|peer| of(&one["podSelector"], peer.labels)));
            at && who
        })
}
