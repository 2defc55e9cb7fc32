//! kubectl against the server, over TLS with a token. Skipped, with a line that says so, where there is no kubectl.
//!
//! Run by cargo test; calls `Server` and the program `kubectl`.

use std::io::Write;
use std::process::{Command, Output};

use kube_api::{Anonymous, Config, Server, Token};
use serde_json::json;

struct Cluster {
    server: Server,
    config: tempfile::NamedTempFile,
}

impl Cluster {
    // None where kubectl cannot be run.
    fn start() -> Option<Self> {
        if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
            println!("skipped: kubectl is not installed");
            return None;
        }
        let settings = Config {
            tokens: vec![Token::admin("secret")],
            anonymous: Anonymous::Forbidden,
            namespaces: vec!["default".to_owned(), "demo".to_owned()],
            ..Config::default()
        };
        let server = Server::start(settings).unwrap();
        let mut config = tempfile::NamedTempFile::new().unwrap();
        config.write_all(server.kubeconfig("secret").as_bytes()).unwrap();
        Some(Self { server, config })
    }

    fn run(&self, args: &[&str]) -> Output {
        let home = self.config.path().parent().unwrap();
        Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", self.config.path())
            .env("HOME", home)
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn slice(name: &str, address: &str) -> serde_json::Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "demo", "labels": {"kubernetes.io/service-name": "pet"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_the_columns_of_a_real_server() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.server.store().apply(slice("pet-1", "127.0.0.2")).unwrap();
    println!("{}", cluster.ok(&["get", "endpointslices,pods", "-o", "wide", "-n", "demo"]));
}
