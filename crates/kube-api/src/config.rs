//! The settings of a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::auth::{Anonymous, Token};
use crate::node::Node;
use crate::settle::Settle;

/// The settings of a server. The default listens on free ports of 127.0.0.1 and asks for no token.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where plain HTTP is served; `None`: nowhere. Port 0: any free one.
    pub plain: Option<SocketAddr>,
    /// Where HTTPS is served; `None`: nowhere.
    pub tls: Option<SocketAddr>,
    /// Host names in the certificate.
    pub tls_names: Vec<String>,
    /// Addresses in the certificate; those listened on are added.
    pub tls_ips: Vec<IpAddr>,
    /// The CA's key in PEM, from `Server::ca_key_pem` of an earlier server: who trusts that one's CA trusts this one.
    /// `None`: a new CA.
    pub ca_key: Option<String>,
    /// The tokens that are valid. Any other answers 401.
    pub tokens: Vec<Token>,
    /// Requests without a token.
    pub anonymous: Anonymous,
    /// Whether `POST /_faults` works, for every user that may do everything.
    pub fault_endpoint: bool,
    /// Namespaces that exist from the start.
    pub namespaces: Vec<String>,
    /// The Kubernetes version that `/version` tells, and the kubelets' of nodes that name none.
    pub version: String,
    /// Nodes that exist from the start; none by default, as the local mesh has none.
    pub nodes: Vec<Node>,
    /// What becomes of Deployments, DaemonSets and StatefulSets.
    pub settle: Settle,
    /// How many events are kept; older ones are "too old".
    pub history: usize,
    /// How many objects are stored; one more is refused with 507.
    pub max_objects: usize,
    /// How often a watch gets a bookmark.
    pub bookmark_interval: Duration,
    /// The largest request body in bytes; above it 413.
    pub max_body: usize,
    /// How many connections a listener accepts; more wait in the listen queue.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            plain: Some(loopback),
            tls: Some(loopback),
            tls_names: vec!["localhost".to_owned()],
            tls_ips: Vec::new(),
            ca_key: None,
            tokens: Vec::new(),
            anonymous: Anonymous::default(),
            fault_endpoint: false,
            namespaces: vec!["default".to_owned()],
            version: "1.36.0+kube-api".to_owned(),
            nodes: Vec::new(),
            settle: Settle::default(),
            history: 10_000,
            max_objects: 100_000,
            bookmark_interval: Duration::from_secs(60),
            max_body: 3 * 1024 * 1024,
            max_connections: 1024,
        }
    }
}
