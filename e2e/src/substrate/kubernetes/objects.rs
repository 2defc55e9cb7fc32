//! What Kubernetes says of pods and nodes, as the tests see it. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::pod::{Container, Pod, State};

/// The pods of a list, the oldest first; those that have run to their end are gone, as far as a test can notice.
#[must_use]
pub fn pods(list: &Value) -> Vec<Pod> {
    let mut items: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    let key = |item: &&Value| {
        let text = |path: &str| item["metadata"][path].as_str().unwrap_or_default().to_owned();
        (text("creationTimestamp"), text("name"))
    };
    items.sort_by_key(key);
    items.into_iter().filter_map(pod).collect()
}

fn pod(item: &Value) -> Option<Pod> {
    let service = item["metadata"]["labels"]["app.kubernetes.io/name"].as_str()?.to_owned();
    let status = &item["status"];
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| status[list].as_array());
    let statuses: Vec<&Value> = lists.into_iter().flatten().flatten().collect();
    let containers: BTreeMap<String, Container> =
        statuses.iter().filter_map(|status| container(&service, status)).collect();
    let leaving = item["metadata"]["deletionTimestamp"].is_string();
    let ready = status["conditions"].as_array().into_iter().flatten();
    let ready = ready.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True");
    let running = statuses.iter().filter(|status| status["state"]["running"].is_object()).count();
    let crashed = statuses.iter().any(|status| status["state"]["terminated"].is_object());
    let state = match (leaving, ready, crashed) {
        (true, ..) => State::Leaving,
        (_, true, _) => State::Ready,
        (_, _, true) => State::Crashed,
        _ if running == statuses.len() && running > 0 => State::NotReady,
        _ => State::Starting,
    };
    let address = status["podIP"].as_str().and_then(|ip| ip.parse().ok());
    Some(Pod {
        name: item["metadata"]["name"].as_str()?.to_owned(),
        service,
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        state,
        containers,
    })
}

/// The container's name in the tests (`container_name` leads back) and its run.
fn container(service: &str, status: &Value) -> Option<(String, Container)> {
    let name = status["name"].as_str()?;
    let name = if name == "proxy" || service == "ingress" { "proxy" } else { "app" };
    let running = status["state"]["running"].is_object();
    let id = status["containerID"].as_str().filter(|_| running).map(str::to_owned);
    let starts = status["restartCount"].as_u64().unwrap_or(0) + 1;
    Some((name.to_owned(), Container { id, starts: u32::try_from(starts).unwrap_or(u32::MAX) }))
}

/// What the manifests call a container.
#[must_use]
pub fn container_name<'a>(service: &'a str, container: &'a str) -> &'a str {
    match (service, container) {
        ("ingress", _) | (_, "app") => service,
        _ => container,
    }
}

/// Where a NodePort may be reached: the internal address of each node.
#[must_use]
pub fn node_addresses(list: &Value) -> Vec<IpAddr> {
    let nodes = list["items"].as_array().into_iter().flatten();
    let addresses = nodes.flat_map(|node| node["status"]["addresses"].as_array().into_iter().flatten());
    let internal = addresses.filter(|address| address["type"] == "InternalIP");
    internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(metadata: &Value, ready: &str, proxy: &Value) -> Value {
        let mut metadata = metadata.clone();
        metadata["name"] = "pet-abc".into();
        metadata["labels"] = json!({"app.kubernetes.io/name": "pet"});
        json!({"items": [{"metadata": metadata, "status": {
            "podIP": "10.1.2.3",
            "conditions": [{"type": "Ready", "status": ready}],
            "initContainerStatuses": [proxy],
            "containerStatuses": [{"name": "pet", "containerID": "c://1", "restartCount": 0,
                                   "state": {"running": {"startedAt": "now"}}}],
        }}]})
    }

    #[test]
    fn a_pod_of_the_cluster_is_a_pod_of_the_tests() {
        let proxy =
            json!({"name": "proxy", "containerID": "c://2", "restartCount": 3, "state": {"running": {}}});
        let pod = pods(&list(&json!({}), "True", &proxy)).remove(0);
        assert_eq!((pod.state, pod.service.as_str()), (State::Ready, "pet"));
        assert_eq!(pod.identity("app").unwrap().id, "c://1");
        assert_eq!(pod.identity("proxy").unwrap().starts, 4);
        let leaving = list(&json!({"deletionTimestamp": "now"}), "True", &proxy);
        assert_eq!(pods(&leaving)[0].state, State::Leaving);
        assert_eq!(pods(&list(&json!({}), "False", &proxy))[0].state, State::NotReady);
    }

    #[test]
    fn a_container_that_ended_has_no_run() {
        let ended =
            json!({"name": "proxy", "containerID": "c://2", "restartCount": 0, "state": {"terminated": {}}});
        let pod = pods(&list(&json!({}), "False", &ended)).remove(0);
        assert_eq!((pod.state, pod.identity("proxy")), (State::Crashed, None));
    }
}
