//! A pod's Envoy file: the shipped one with this pod's address and the local DNS responder.
//!
//! Only the addresses of `socket_address` fields change, wherever they stand; comments and spelling stay. The file is
//! checked before and after, so that no proxy starts with one that it would refuse.
//! Called when a pod is created; calls the reader in `xds`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::error::Error;

/// What stands for the pod in the shipped files: all its addresses, or its own loopback.
const OWN_ADDRESSES: [&str; 3] = ["::", "0.0.0.0", "127.0.0.1"];

/// The text of the pod's file.
///
/// # Errors
/// The file does not exist or is no valid configuration; the text has the reader's diagnostics.
pub fn config(file: &Path, address: Ipv4Addr, dns: SocketAddr) -> Result<String, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::MissingConfig(file.to_owned()));
        }
        Err(error) => return Err(Error::io("read", file, error)),
    };
    let name = file.display().to_string();
    check(&name, &text)?;
    let own = |written: &str| OWN_ADDRESSES.contains(&written).then(|| address.to_string());
    let moved = xds::rewrite_addresses(&name, &text, &own).map_err(|found| bad(&found, &text))?;
    let rendered = xds::add_dns_resolver(&name, &moved, &dns.ip().to_string(), dns.port());
    let rendered = rendered.map_err(|found| bad(&found, &moved))?;
    check("the rendered file", &rendered)?;
    Ok(format!("# Made from {name} for {address}; changes here last until the next start.\n{rendered}"))
}

fn check(name: &str, text: &str) -> Result<(), Error> {
    xds::read_bootstrap(name, text).map(drop).map_err(|found| bad(&found, text))
}

fn bad(found: &[xds::Diagnostic], text: &str) -> Error {
    Error::BadConfig { text: xds::render_text(found, text) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;

    fn shipped(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config").join(name)
    }

    #[test]
    fn every_shipped_file_becomes_one_for_the_pod() {
        let dns = "127.0.0.1:5300".parse().unwrap();
        for name in ["pet.yaml", "petstore.yaml", "ingress.yaml"] {
            let text = config(&shipped(name), Ipv4Addr::new(127, 0, 1, 9), dns).unwrap();
            let tree = xds::to_json(&xds::read_bootstrap(name, &text).unwrap().message);
            let mut found = Vec::new();
            addresses(&tree, &mut found);
            let dns_only: Vec<&String> =
                found.iter().filter(|found| found.starts_with("127.0.0.1")).collect();
            assert_eq!(dns_only, ["127.0.0.1:5300"], "{name}: {found:?}");
            let everywhere = |found: &String| found.starts_with("0.0.0.0") || found.starts_with("::");
            assert!(!found.iter().any(everywhere), "{name}: {found:?}");
            for expected in ["127.0.1.9:10000", "127.0.1.9:8081", "127.0.1.9:10001", "sds:8080"] {
                assert!(found.iter().any(|found| found == expected), "{name} lacks {expected}: {found:?}");
            }
        }
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let dns = "127.0.0.1:53".parse().unwrap();
        let missing =
            config(Path::new("nowhere/pet.yaml"), Ipv4Addr::LOCALHOST, dns).unwrap_err().to_string();
        assert!(missing.contains("nowhere/pet.yaml") && missing.contains("--config-dir"), "{missing}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pet.yaml");
        std::fs::write(&file, "static_resources: {clusterz: []}\n").unwrap();
        let broken = config(&file, Ipv4Addr::LOCALHOST, dns).unwrap_err().to_string();
        assert!(broken.contains("pet.yaml:1:") && broken.contains("clusterz"), "{broken}");
    }

    fn addresses(tree: &Value, found: &mut Vec<String>) {
        match tree {
            Value::Object(fields) => {
                if let Some(socket) = fields.get("socket_address") {
                    found.push(format!("{}:{}", socket["address"].as_str().unwrap(), socket["port_value"]));
                }
                fields.values().for_each(|value| addresses(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| addresses(item, found)),
            _ => {}
        }
    }
}
