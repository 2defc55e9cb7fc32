//! Tests of the reader as a whole, on files and tables.

mod broken;
mod envoy;
mod examples;
mod extensions;
mod forms;
mod hostile;
mod lints;
mod old_forms;
mod resources;
mod upgrades;

use crate::supported::supported_fields;
use crate::{read_bootstrap, render_text, to_json};

/// A file of `tests/data`.
fn data(name: &str) -> String {
    std::fs::read_to_string(data_path(name)).unwrap()
}

fn data_path(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Compares with a committed file, or writes it when `UPDATE` is set.
fn assert_committed(path: &str, actual: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, actual).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed, actual, "{path} differs; UPDATE=1 writes it anew");
}

/// The bootstrap of a text as JSON.
fn json(name: &str, text: &str) -> serde_json::Value {
    match read_bootstrap(name, text) {
        Ok(read) => to_json(&read.message),
        Err(findings) => panic!("{}", render_text(&findings, text)),
    }
}

#[test]
fn the_page_of_supported_fields_is_up_to_date() {
    let path = format!("{}/../../docs/supported-fields.md", env!("CARGO_MANIFEST_DIR"));
    assert_committed(&path, &supported_fields());
}

#[test]
fn the_page_of_diagnostics_is_up_to_date() {
    let path = format!("{}/../../docs/diagnostics.md", env!("CARGO_MANIFEST_DIR"));
    assert_committed(&path, &crate::diagnostic::diagnostics_page());
}

#[test]
fn every_tutorial_file_reads_as_printed() {
    let hosts = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
    let router = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/@type";
    for (name, warnings, port, has_router) in [
        ("json-sidecar.json", 4, 8002, true),
        ("pet-sidecar.yaml", 5, 8080, true),
        ("nginx-sidecar.yaml", 0, 80, true),
        ("static-endpoints.yaml", 0, 8080, false),
        ("kubernetes-service-http2.yaml", 0, 80, false),
        ("petstore-sidecar.yaml", 9, 8080, true),
    ] {
        let text = data(name);
        let json = json(name, &text);
        assert_eq!(json.pointer(hosts), Some(&port.into()), "{name}");
        assert_eq!(json.pointer(router).is_some(), has_router, "{name}");
        let read = read_bootstrap(name, &text).unwrap();
        assert_eq!(read.warnings.len(), warnings, "{name}: {}", render_text(&read.warnings, &text));
        // What is dumped reads again, and to the same.
        let again = self::json(name, &json.to_string());
        assert_eq!(again, json, "{name}");
    }
}

#[test]
fn the_legacy_source_survives_a_dump() {
    let json = json("petstore-sidecar.yaml", &data("petstore-sidecar.yaml"));
    let source = json.pointer("/static_resources/clusters/1/eds_cluster_config/eds_config/api_config_source");
    let expected = serde_json::json!(
        {"api_type": "REST_LEGACY", "cluster_names": ["sds"], "refresh_delay": "60s"}
    );
    assert_eq!(source, Some(&expected));
}

#[test]
fn later_findings_point_at_old_forms_in_their_own_spelling() {
    let text = data("pet-sidecar.yaml");
    let positions = read_bootstrap("pet-sidecar.yaml", &text).unwrap().positions;
    let path = "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address";
    let finding = positions.error(path, crate::Code::Structure, "no");
    assert_eq!(finding.path.as_deref(), Some("static_resources.clusters[0].hosts[0].socket_address"));
    assert_eq!((finding.line, finding.column), (Some(34), Some(9)));
    let absent =
        positions.error("static_resources.clusters[0].circuit_breakers", crate::Code::Structure, "no");
    assert_eq!(absent.path.as_deref(), Some("static_resources.clusters[0].circuit_breakers"));
    assert_eq!(absent.line, Some(28));
}

#[test]
fn a_file_with_everything_reads_without_a_word_and_is_dumped_whole() {
    let text = data("everything.yaml");
    let read =
        read_bootstrap("everything.yaml", &text).map_err(|findings| render_text(&findings, &text)).unwrap();
    assert_eq!(render_text(&read.warnings, &text), "");
    let dump = format!("{:#}\n", to_json(&read.message));
    assert_committed(&data_path("everything.json"), &dump);
    assert!(
        format!("{:#}\n", json("everything.json", &dump)) == dump,
        "what is dumped reads as something else"
    );
    let checked: crate::envoy::config::bootstrap::v3::Bootstrap =
        crate::decode_any_checked(&crate::pack(&read.message)).unwrap();
    assert_eq!(checked, read.message);
}

/// Ten thousand routes must not be a matter of patience, even in a build for tests.
#[test]
fn a_large_file_is_read_whole() {
    let mut text = data("nginx-sidecar.yaml");
    let route = "              - match: { prefix: \"/\" }\n                route:\n                  cluster: targetCluster\n";
    let at = text.find(route).unwrap();
    text.insert_str(at, &route.repeat(10_000));
    let read = read_bootstrap("large.yaml", &text).unwrap();
    let positions = read.positions;
    let path = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[9999].route.cluster";
    assert_eq!(positions.line_column(path), Some((10_000 * 3 + 22, 28)));
}
