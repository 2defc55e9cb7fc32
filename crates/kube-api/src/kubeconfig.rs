//! The kubeconfig of a server.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A kubeconfig in JSON, which is YAML. kubectl and kube-rs read both.
pub fn render(plain: Option<SocketAddr>, tls: Option<SocketAddr>, ca_pem: &str, token: &str) -> String {
    let cluster = match (tls, plain) {
        (Some(address), _) => {
            json!({"server": format!("https://{address}"), "certificate-authority-data": crate::base64::encode_standard(ca_pem.as_bytes())})
        }
        (None, Some(address)) => json!({"server": format!("http://{address}")}),
        (None, None) => Value::Null,
    };
    let user = if token.is_empty() { json!({}) } else { json!({"token": token}) };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "kube-api",
        "clusters": [{"name": "kube-api", "cluster": cluster}],
        "users": [{"name": "kube-api", "user": user}],
        "contexts": [{"name": "kube-api",
            "context": {"cluster": "kube-api", "user": "kube-api", "namespace": "default"}}],
    });
    format!("{config:#}\n")
}
