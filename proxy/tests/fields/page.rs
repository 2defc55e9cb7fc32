//! What an admin page of a proxy that runs a file says.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use proxy::admin::accepted::Accepted;
use proxy::admin::{AdminContext, CommandLine};
use proxy::build::Graph;
use proxy::snapshot::Snapshot;
use proxy::state::ServerState;
use proxy::stats::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use xds::envoy::config::bootstrap::v3::Bootstrap;

/// The body of a page. Times and what the process takes are not in pages that a case may name.
pub fn body(bootstrap: &Bootstrap, graph: &Graph, registry: &Registry, path: &str) -> String {
    let listeners = graph.listeners.iter().map(|part| Arc::clone(&part.listener)).collect();
    let snapshot = Snapshot { version: 1, listeners, ..Snapshot::default() };
    let accepted = Accepted {
        bootstrap: proxy::build::Packed::new(bootstrap),
        loaded_at: UNIX_EPOCH,
        rejected: None,
        unbound: Vec::new(),
        warming: std::collections::BTreeSet::new(),
        runtime: std::collections::BTreeMap::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = AdminContext {
            state: Arc::new(ServerState::new(proxy::time::now())),
            registry: registry.clone(),
            snapshot: watch::channel(Arc::new(snapshot)).1,
            accepted: watch::channel(Arc::new(accepted)).1,
            commands: mpsc::channel(1).0,
            log: None,
            access_log: Vec::new(),
            options: CommandLine::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = proxy::admin::serve(listener, context, std::future::pending());
        tokio::select! {
            () = server => String::new(),
            text = ask(address, path) => text,
        }
    })
}

async fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    // An uptime may pass a second between two responses.
    let lines = body.lines().filter(|line| !line.contains("uptime"));
    lines.collect::<Vec<_>>().join("\n")
}
