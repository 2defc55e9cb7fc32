//! What the user sees of a mesh: the table of pods, and what to try next.

use std::fmt::Write;

use local_mesh::END_TO_END;
use local_mesh::control::{Pod, State, Status};

/// One line a pod.
pub fn pods(status: &Status) -> String {
    let mut rows = vec![["POD", "ADDRESS", "STATE", "PORTS", "LOG"].map(str::to_owned)];
    rows.extend(status.pods.iter().map(row));
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    for pod in status.pods.iter().filter(|pod| pod.state == State::Crashed) {
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "{} has crashed: {}", pod.name, pod.reason.as_deref().unwrap_or("unknown reason"));
    }
    let _ = writeln!(
        text,
        "supervisor: process {}, log {}; Kubernetes API: {}",
        status.supervisor.pid,
        status.supervisor.log.display(),
        status.supervisor.kubernetes_api
    );
    text
}

fn row(pod: &Pod) -> [String; 5] {
    let ports: Vec<String> = pod.ports.iter().map(ToString::to_string).collect();
    let log = ["app", "proxy"].iter().find_map(|name| pod.containers.get(*name));
    let log = log.map(|container| container.log.display().to_string()).unwrap_or_default();
    [pod.name.clone(), pod.address.to_string(), pod.state.to_string(), ports.join(" "), log]
}

/// Commands to paste, each with what it answers.
pub fn what_to_try(status: &Status) -> String {
    let address = |service: &str| {
        let pod = status.pods.iter().find(|pod| pod.service == service);
        pod.map_or_else(|| "127.0.0.1".to_owned(), |pod| pod.address.to_string())
    };
    let (ingress, petstore, sds) = (address("ingress"), address("petstore"), address("sds"));
    let kubeconfig = status.supervisor.kubeconfig.display();
    let lines = [
        (
            format!("curl 'http://{ingress}:10000{END_TO_END}'"),
            r#"{"name":"Amiguitos Mascotas","location":"Málaga","pets":[{"name":"Mififú","age":3},{"name":"Toby","age":5}]}"#,
        ),
        (
            format!("curl 'http://{ingress}:10000/pet/pets?petStoreId=2'"),
            r#"[{"name":"Mififú","age":3},{"name":"Toby","age":5}]"#,
        ),
        (
            format!("curl -i 'http://{ingress}:10000/petstore/petstore/2'"),
            "HTTP/1.1 400: includePets is missing",
        ),
        (format!("curl http://{sds}:8080/v1/registration/pet"), "the pods of pet, as discovery sees them"),
        (format!("curl http://{petstore}:8081/clusters"), "the pods of pet, as petstore's sidecar sees them"),
        (format!("kubectl --kubeconfig {kubeconfig} get pods -o wide"), "the pods, as Kubernetes sees them"),
    ];
    let mut text = String::from("\nTry:\n");
    for (command, answer) in lines {
        let _ = writeln!(text, "  {command}\n      {answer}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_str(
            r#"{
              "supervisor": {"pid": 7, "kubernetes_api": "https://127.0.0.1:6443", "kubeconfig": "mesh/kubeconfig",
                             "dns": "127.0.0.1:53", "log": "mesh/supervisor.log"},
              "pods": [
                {"name": "ingress-1", "service": "ingress", "address": "127.0.0.1", "state": "ready", "reason": null,
                 "ports": [10000], "containers": {"proxy": {"pid": 8, "log": "mesh/ingress-1/proxy.log", "access_log": null}}},
                {"name": "pet-1", "service": "pet", "address": "127.0.1.2", "state": "crashed",
                 "reason": "app ended: signal 9 (KILL)", "ports": [10000, 9900],
                 "containers": {"app": {"pid": null, "log": "mesh/pet-1/app.log", "access_log": null}}}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_table_has_a_line_a_pod_and_the_reason_of_a_crash() {
        let expected = "\
POD        ADDRESS    STATE    PORTS       LOG
ingress-1  127.0.0.1  ready    10000       mesh/ingress-1/proxy.log
pet-1      127.0.1.2  crashed  10000 9900  mesh/pet-1/app.log
pet-1 has crashed: app ended: signal 9 (KILL)
supervisor: process 7, log mesh/supervisor.log; Kubernetes API: https://127.0.0.1:6443
";
        assert_eq!(pods(&status()), expected);
    }

    #[test]
    fn what_to_try_names_the_addresses_of_this_mesh() {
        let text = what_to_try(&status());
        assert!(
            text.contains("curl 'http://127.0.0.1:10000/petstore/petstore/2?includePets=true'\n"),
            "{text}"
        );
        assert!(text.contains("kubectl --kubeconfig mesh/kubeconfig get pods"), "{text}");
    }
}
