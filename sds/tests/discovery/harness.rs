//! A discovery service beside an API server, both in this process, on free ports of loopback.
//!
//! The times are short where a fault has to be noticed by time; no test asserts one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube_api::{Config, On, Server};
use lifecycle::Lifecycle;
use sds::app::Running;
use sds::catalog::Catalog;
use sds::server::Limits;
use sds::settings::{Kubernetes, Settings};
use sds::status::State;
use sds::translate::{Family, Rules};
use sds::watch::Timing;
use serde_json::{Value, json};

/// Nothing takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Discovery {
    pub api: Server,
    sds: Sds,
    directory: tempfile::TempDir,
}

/// The discovery service alone; [`Discovery`] is one with an API server.
pub struct Sds {
    pub running: Running,
    pub lifecycle: Lifecycle,
}

pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

/// How to start; the default is plain HTTP without token, watching namespace `shop`.
pub struct Setup {
    pub config: Config,
    pub timing: Timing,
    pub tls: Tls,
    pub token: Option<&'static str>,
    pub all_namespaces: bool,
    /// Slices that exist from the start.
    pub objects: Vec<Value>,
    /// The code of every answer of the API server, until its faults are cleared.
    pub failing: Option<u16>,
    pub limits: Limits,
    pub listen: SocketAddr,
    pub family: Family,
    pub fail_static: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    No,
    Trusted,
    /// Signed by an authority that sds does not know.
    Untrusted,
}

impl Default for Setup {
    fn default() -> Self {
        let millis = Duration::from_millis;
        let timing = Timing {
            connect: millis(2000),
            answer: millis(500),
            page: millis(1000),
            watch: Duration::from_secs(60),
            grace: millis(500),
            backoff_first: millis(10),
            backoff_cap: millis(100),
            audit_every: Duration::from_secs(3600),
            audit_settle: millis(200),
            page_size: 2,
        };
        Self {
            config: Config::default(),
            timing,
            tls: Tls::No,
            token: None,
            all_namespaces: false,
            objects: Vec::new(),
            failing: None,
            limits: Limits { linger: Duration::ZERO, ..Limits::default() },
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            family: Family::Auto,
            fail_static: Duration::from_secs(300),
        }
    }
}

impl Setup {
    pub async fn start(mut self) -> Discovery {
        let api = Server::start(std::mem::take(&mut self.config)).unwrap();
        for object in std::mem::take(&mut self.objects) {
            api.store().apply(object).unwrap();
        }
        if let Some(code) = self.failing {
            api.faults().fail_next(u32::MAX, code, On::All);
        }
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (scheme, address) = match self.tls {
            Tls::No => ("http", api.plain_addr().unwrap()),
            Tls::Trusted | Tls::Untrusted => ("https", api.tls_addr().unwrap()),
        };
        let kubernetes = Kubernetes {
            api_host: format!("{scheme}://{address}").parse().unwrap(),
            namespace: "shop".into(),
            all_namespaces: self.all_namespaces,
            token_path: self.token.map(|token| write("token", token)),
            ca_path: (self.tls == Tls::Trusted).then(|| write("ca.crt", api.ca_pem())),
        };
        Discovery { api, sds: self.beside(kubernetes).await, directory }
    }

    /// Starts sds alone, for an API server that exists already.
    pub async fn beside(self, kubernetes: Kubernetes) -> Sds {
        let rules = Rules { envoy_port: 10000, family: self.family };
        let settings = Settings { listen: self.listen, rules, fail_static: self.fail_static, kubernetes };
        let lifecycle = Lifecycle::manual();
        let running =
            sds::app::start(&settings, self.timing, self.limits, &lifecycle.shutdown()).await.unwrap();
        Sds { running, lifecycle }
    }
}

impl Discovery {
    /// Started with these slices and in sync with them.
    pub async fn with(objects: impl IntoIterator<Item = Value>) -> Self {
        let setup = Setup { objects: objects.into_iter().collect(), ..Setup::default() };
        let discovery = setup.start().await;
        discovery.until(|_| true).await;
        discovery
    }

    pub fn apply(&self, object: Value) {
        self.api.store().apply(object).unwrap();
    }

    pub fn delete(&self, slice: &str) {
        self.api.store().delete("EndpointSlice", "shop", slice).unwrap();
    }

    pub fn rotate_token(&self, token: &str) {
        std::fs::write(self.directory.path().join("token"), token).unwrap();
    }

    pub fn into_sds(self) -> Sds {
        self.sds
    }
}

impl std::ops::Deref for Discovery {
    type Target = Sds;

    fn deref(&self) -> &Sds {
        &self.sds
    }
}

impl Sds {
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(self.running.address, path, headers).await
    }

    /// The same at another address of it.
    pub async fn get_at(&self, address: SocketAddr, path: &str) -> Answer {
        self.send(address, path, &[]).await
    }

    async fn send(&self, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = http::Request::get(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client: Client<HttpConnector, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let response = client.request(request.body(Empty::new()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// The addresses of a service, as a proxy gets them.
    pub async fn hosts(&self, service: &str) -> Vec<String> {
        let answer = self.get(&format!("/v1/registration/{service}")).await;
        let registration: Value = serde_json::from_str(&answer.text).unwrap();
        let hosts = registration["hosts"].as_array().unwrap_or_else(|| panic!("no hosts in {}", answer.text));
        hosts.iter().map(|host| host["ip_address"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until service `pet` has exactly these addresses.
    pub async fn until_pet(&self, addresses: &[&str]) {
        self.until(|catalog| {
            let known = catalog.get("pet.shop").map(|cluster| {
                cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>()
            });
            known.unwrap_or_default() == addresses
        })
        .await;
    }

    pub async fn until(&self, enough: impl Fn(&Catalog) -> bool) {
        let mut catalog = self.running.catalog.clone();
        let enough = |catalog: &Option<Arc<Catalog>>| catalog.as_deref().is_some_and(&enough);
        let known = tokio::time::timeout(PATIENCE, catalog.wait_for(enough)).await;
        if known.is_err() {
            let debug = self.get("/debug").await.text;
            panic!("sds never came to know it: {debug}");
        }
    }

    /// Waits until the watch says so of itself.
    pub async fn until_state(&self, enough: impl FnMut(&State) -> bool) -> State {
        let mut state = self.running.status.subscribe();
        let state = tokio::time::timeout(PATIENCE, state.wait_for(enough)).await;
        state.expect("the watch never came to this state").unwrap().clone()
    }

    pub async fn metric(&self, line: &str) -> bool {
        self.get("/metrics").await.text.lines().any(|one| one == line)
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A slice of ready pods of a service in namespace `shop`.
pub fn slice(service: &str, name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| {
            json!({
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("pod-{address}"), "uid": address },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        "endpoints": endpoints,
    })
}

/// A slice of the other address family.
pub fn slice_ipv6(service: &str, name: &str, addresses: &[&str]) -> Value {
    let mut slice = slice(service, name, addresses);
    slice["addressType"] = "IPv6".into();
    slice
}

pub fn pet(addresses: &[&str]) -> Value {
    slice("pet", "pet-1", addresses)
}
