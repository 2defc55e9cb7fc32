//! Every configuration file of the tutorials reads as printed, with warnings only for its old forms.
//!
//! Calls the public reader.

use xds::envoy::config::bootstrap::v3::Bootstrap;

fn read(name: &str) -> (Bootstrap, Vec<String>) {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let read = xds::read_bootstrap(name, &text)
        .unwrap_or_else(|findings| panic!("{}", xds::render_text(&findings, &text)));
    let warnings =
        read.warnings.iter().map(|w| format!("{}: {}", w.path.clone().unwrap_or_default(), w.message));
    (read.message.clone(), warnings.collect())
}

#[test]
fn all() {
    for f in [
        "json-sidecar.json",
        "kubernetes-service-http2.yaml",
        "nginx-sidecar.yaml",
        "pet-sidecar.yaml",
        "static-endpoints.yaml",
    ] {
        let (m, w) = read(f);
        println!("{f}: {w:#?}\n{}", serde_json::to_string_pretty(&xds::to_json(&m)).unwrap());
    }
}
