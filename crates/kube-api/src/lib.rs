//! A small Kubernetes API server for the local mesh and the tests.
//!
//! It serves EndpointSlices, Pods, Services, Namespaces and every other kind that a deployment has (the table in
//! `resources`) over plain HTTP and HTTPS as kube-apiserver does: lists with selectors, pages and versions, watches with bookmarks and 410, streaming lists, create, update, patch, delete,
//! bearer tokens with rules, tables for kubectl. And it fails on request, as real servers do ([`Faults`]).
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use kube_api::{Config, Server};
//!
//! let server = Server::start(Config::default())?; // loopback, free ports, no tokens
//! let store = server.store();
//! store.apply(serde_json::json!({
//!     "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
//!     "metadata": {"name": "pet-1", "namespace": "demo", "labels": {"kubernetes.io/service-name": "pet"}},
//!     "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.2"]}],
//! }))?;
//! let url = format!("http://{}/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices", server.plain_addr().unwrap());
//! server.faults().fail_next(2, 503, kube_api::On::Watch);
//! server.stop().await;
//! # let _ = url;
//! # Ok::<_, Box<dyn std::error::Error>>(()) })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! What differs from a real server:
//! - There are no controllers and no kubelets. A Pod is deleted at once unless a finalizer holds it; what it owns goes with
//!   an owner, and what is in it with a namespace, within the request. Workloads stay without status and Pods, or are
//!   rolled out or stuck at once ([`Settle`]). Logs, exec, port-forward and eviction answer 501 and say so.
//! - Roles are stored and not obeyed; what a token may do, and what `kubectl auth can-i` answers, are the rules of its [`Token`].
//! - Of admission there are quotas (used is `status.used`, or else what is stored), namespaces that are ending, node ports and
//!   cluster addresses. Few fields are checked or filled in, and unknown ones are kept, also with `--validate=strict`: validate
//!   manifests against schemas elsewhere.
//! - No managedFields, and so no ownership: a server-side apply removes nothing that it no longer names, and conflicts with
//!   nobody.
//! - JSON, no YAML and no gzip. Protobuf is read for the few kinds that `kubectl create` makes most (`protobuf`); for others,
//!   Deployments among them, the 415 tells to pipe `--dry-run=client -o yaml` into `kubectl apply -f -`.
//! - A roll-out keeps no history: revision 1, and `kubectl rollout undo` finds nothing.
//!
//! Reading order: `server` (listeners), `api` (one request), `store` (objects and history), `list`, `watch`, `write`;
//! `resources` is the table of kinds. [`recording`] reads and serves recorded exchanges.
//!
//! For shell scripts: `cargo run -p kube-api --example serve -- --kubeconfig FILE` (see `examples/serve.rs`).

mod answer;
mod api;
mod auth;
mod base64;
mod config;
mod control;
mod discovery;
mod faults;
mod gate;
mod kubeconfig;
mod list;
mod node;
mod options;
mod patch;
mod protobuf;
mod quota;
pub mod recording;
mod resources;
mod reviews;
mod route;
mod scale;
mod selector;
mod server;
mod settle;
mod status;
mod store;
mod table;
mod time;
mod tls;
mod watch;
mod write;

pub use api::Counts;
pub use auth::{Anonymous, Rule, Token};
pub use config::Config;
pub use faults::{Faults, On};
pub use node::Node;
pub use server::Server;
pub use settle::Settle;
pub use status::{Cause, Details, ListMeta, Status};
pub use store::{EventType, Store};
