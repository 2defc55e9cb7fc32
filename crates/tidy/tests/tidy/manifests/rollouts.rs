//! A pod is ready before another one goes, and has the time to end well.

use serde_json::{Value, json};
use tidy::{Findings, Tree};

use super::each;
use super::rendered::{Workload, list, selects};

/// Seconds between the steps of a pod's end: signals, and the kubelet's own work.
const MARGIN: u64 = 5;

#[test]
fn probes_ask_the_app_through_its_proxy_and_the_proxy_itself() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads().iter().filter(|_| file.is_mesh()) {
            let app = &workload.pod["containers"][0];
            let asked = |container: &Value, probe: &str| {
                let get = &container[probe]["httpGet"];
                get["port"].as_u64().map(|port| (port, get["path"].as_str().unwrap_or_default().to_owned()))
            };
            let expected = match workload.name {
                // Behind a proxy an app has no liveness probe: it would depend on the load.
                "pet" | "petstore" if workload.sidecar().is_some() => [None, None, Some((10000, "/readyz"))],
                "pet" | "petstore" => [None, Some((8080, "/livez")), Some((8080, "/readyz"))],
                "sds" => [None, Some((8080, "/livez")), Some((8080, "/readyz"))],
                "zipkin" => [Some((9411, "/health")); 3],
                _ => [Some((10001, "/ready")); 3],
            };
            let mut check = |container: &Value, probe: &str, expected: Option<(u64, &str)>| {
                let found = asked(container, probe);
                if found != expected.map(|(port, path)| (port, path.to_owned())) {
                    findings.add(format!(
                        "{}: {probe} is {found:?}, expected {expected:?}",
                        workload.of(container)
                    ));
                }
            };
            for (probe, expected) in ["startupProbe", "livenessProbe", "readinessProbe"].iter().zip(expected)
            {
                check(app, probe, expected);
            }
            if let Some(proxy) = workload.sidecar() {
                // Not through the app, which starts after the proxy has: neither would ever start.
                check(proxy, "startupProbe", Some((10001, "/ready")));
                check(proxy, "livenessProbe", Some((10001, "/ready")));
                check(proxy, "readinessProbe", None);
            }
        }
    })
}

#[test]
fn apps_with_a_sidecar_are_on_loopback() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads() {
            let app = &workload.pod["containers"][0];
            let variable = |name: &str| {
                list(&app["env"])
                    .find(|entry| entry["name"] == name)
                    .and_then(|entry| entry["value"].as_str())
            };
            let sidecar = workload.sidecar().is_some();
            if (workload.name == "pet" || workload.name == "petstore") && file.is_mesh() {
                let address = if sidecar { "127.0.0.1:8080" } else { "0.0.0.0:8080" };
                if variable("LISTEN_ADDR") != Some(address) || sidecar != app["ports"].is_null() {
                    findings.add(format!(
                        "{}: listens on {:?}, expected {address}",
                        workload.of(app),
                        variable("LISTEN_ADDR")
                    ));
                }
                if file.is_overlay() && !sidecar {
                    findings.add(format!("{}: has no native sidecar", workload.place));
                }
            }
            if workload.name == "petstore" {
                let expected = match file.path.ends_with("/node-proxy.yaml") {
                    _ if sidecar => "http://127.0.0.1:9900",
                    true => "http://node-proxy",
                    false => "http://pet",
                };
                if variable("SIDECAR_URL") != Some(expected) {
                    findings.add(format!(
                        "{}: SIDECAR_URL is {:?}, expected {expected}",
                        workload.of(app),
                        variable("SIDECAR_URL")
                    ));
                }
            }
        }
    })
}

#[test]
fn no_pod_goes_before_another_is_ready() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads().iter().filter(|workload| file.is_mesh() && workload.name != "zipkin")
        {
            let spec = &workload.object["spec"];
            let strategy = if workload.kind == "DaemonSet" { "updateStrategy" } else { "strategy" };
            if spec[strategy]["rollingUpdate"] != json!({ "maxUnavailable": 0, "maxSurge": 1 })
                || spec["minReadySeconds"].as_u64() < Some(3)
            {
                findings.add(format!(
                    "{}: expected maxUnavailable 0, maxSurge 1 and minReadySeconds of 3 or more",
                    workload.place
                ));
            }
            if workload.kind == "DaemonSet" {
                continue;
            }
            let scaled = file
                .of_kind("HorizontalPodAutoscaler")
                .find(|scaler| scaler["spec"]["scaleTargetRef"]["name"] == workload.name);
            let replicas = scaled.map_or(&spec["replicas"], |scaler| &scaler["spec"]["minReplicas"]).as_u64();
            let budget = file
                .of_kind("PodDisruptionBudget")
                .find(|budget| selects(&budget["spec"]["selector"]["matchLabels"], workload.labels));
            let budget = budget.map_or(&Value::Null, |budget| &budget["spec"]);
            if replicas < Some(2)
                || budget["minAvailable"] != 1
                || budget["unhealthyPodEvictionPolicy"] != "AlwaysAllow"
            {
                findings.add(format!("{}: expected two pods or more and a PodDisruptionBudget that keeps one of them and evicts those that are not ready", workload.place));
            }
            let spread = list(&workload.pod["topologySpreadConstraints"]).any(|constraint| {
                constraint["whenUnsatisfiable"] == "ScheduleAnyway"
                    && selects(&constraint["labelSelector"]["matchLabels"], workload.labels)
            });
            if !spread {
                findings.add(format!("{}: wish for other nodes, softly: one node must do", workload.place));
            }
        }
    })
}

/// Sleep, then the app's own limit, then its proxy's, one after the other.
#[test]
fn a_pod_has_the_time_that_its_programs_may_take_to_end() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let services =
        seconds(&tree, "services/pet/src/main.rs", "DRAIN_DEADLINE: Duration = Duration::from_secs(")?.max(
            seconds(
                &tree,
                "services/petstore/src/main.rs",
                "DRAIN_DEADLINE: Duration = Duration::from_secs(",
            )?,
        );
    let sds = seconds(&tree, "sds/src/app.rs", "DRAIN: Duration = Duration::from_secs(")?;
    let mut refresh = 0;
    for file in ["pet", "petstore", "ingress"] {
        refresh = refresh.max(seconds(&tree, &format!("deploy/config/{file}.yaml"), "refresh_delay: ")?);
    }
    each(|file, findings| {
        for workload in file.workloads().iter().filter(|workload| file.is_mesh() && workload.name != "zipkin")
        {
            let app = &workload.pod["containers"][0];
            let sleep = app["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
            if sleep < 3 * refresh {
                findings.add(format!("{}: sleeps {sleep} s, proxies ask for endpoints every {refresh} s: expected three times that", workload.of(app)));
            }
            let drain = match workload.name {
                "pet" | "petstore" => Some(services),
                "sds" => Some(sds),
                _ => drain_time(app),
            };
            let proxy = workload.sidecar().map_or(Some(0), drain_time);
            let needed = drain.zip(proxy).map(|(drain, proxy)| sleep + drain + proxy + MARGIN);
            let grace = workload.pod["terminationGracePeriodSeconds"].as_u64();
            if needed.is_none() || grace < needed {
                findings.add(format!(
                    "{}: terminationGracePeriodSeconds {grace:?}, needed {needed:?}",
                    workload.place
                ));
            }
            if let Some(proxy) = workload.sidecar().filter(|proxy| !proxy["lifecycle"].is_null()) {
                findings.add(format!(
                    "{}: a sidecar's preStop runs when the app's does, too early",
                    workload.of(proxy)
                ));
            }
        }
    })
}

#[test]
fn metrics_are_announced_where_they_can_be_read() -> Result<(), Findings> {
    let annotations =
        |workload: &Workload<'_>| workload.object["spec"]["template"]["metadata"]["annotations"].clone();
    each(|file, findings| {
        for workload in file.workloads() {
            let expected = match workload.name {
                "sds" => {
                    json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/metrics" })
                }
                // Its probe listener shows the statistics of a proxy.
                _ if workload.labels["petmesh.dev/proxy"].is_string() => {
                    json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "10001", "prometheus.io/path": "/stats/prometheus" })
                }
                _ => Value::Null,
            };
            if annotations(&workload) != expected {
                findings.add(format!(
                    "{}: annotations {}, expected {expected}",
                    workload.place,
                    annotations(&workload)
                ));
            }
        }
    })
}

/// `--drain-time-s` of a proxy's arguments.
fn drain_time(proxy: &Value) -> Option<u64> {
    let words: Vec<&str> = list(&proxy["args"]).filter_map(Value::as_str).collect();
    let at = words.iter().position(|word| *word == "--drain-time-s")?;
    words.get(at + 1)?.parse().ok()
}

/// The number after a text in a file: where the programs keep their limits.
fn seconds(tree: &Tree, file: &str, before: &str) -> Result<u64, Findings> {
    let text = tree.text(file)?;
    let digits = text
        .split_once(before)
        .map(|(_, after)| after.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        Findings::one(format!(
            "{file}: no `{before}` with seconds: correct crates/tidy/tests/tidy/manifests/rollouts.rs"
        ))
    })
}
