//! Wiring: arguments and bootstrap -> snapshot -> workers, control, admin; and the ordered shutdown.
//!
//! Called by `main`; calls everything.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::{Args, Source};
use crate::local::Local;
use crate::snapshot::{Cluster, Snapshot, build};
use crate::state::{Phase, ServerState};
use crate::stats::Registry;
use crate::{time, worker};

pub mod drain;

/// Stand-in until control lands.
pub fn main() -> ExitCode {
    let args = Args::from_process();
    let _log =
        telemetry::init(telemetry::LogOptions { level: args.log_level.clone(), path: args.log_path.clone() });
    let Ok(Source::File(path)) =
        args.source(|name| std::env::var(name).ok(), |path| std::path::Path::new(path).exists())
    else {
        return ExitCode::FAILURE;
    };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let read = match xds::read_bootstrap(&path.to_string_lossy(), &text) {
        Ok(read) => read,
        Err(diagnostics) => {
            eprintln!("{}", xds::render_text(&diagnostics, &text));
            return ExitCode::FAILURE;
        }
    };
    let registry = Registry::new(args.workers());
    let node = build::Node::new(&read.message, None, None);
    let parts = build::Parts { node, registry: &registry, logs: None };
    let graph = match build::graph(&read, parts, None) {
        Ok((graph, _)) => graph,
        Err(diagnostics) => {
            eprintln!("{}", xds::render_text(&diagnostics, &text));
            return ExitCode::FAILURE;
        }
    };
    let state = Arc::new(ServerState::new(time::now()));
    let mut snapshot = Snapshot::default();
    for (name, part) in &graph.clusters {
        let endpoints = match &*part.discovery {
            build::Discovery::Static(endpoints) => endpoints.clone(),
            build::Discovery::Dns(dns) => dns
                .names
                .iter()
                .filter_map(|name| {
                    let ip: std::net::IpAddr = name.host.parse().ok()?;
                    let mut endpoint = name.template.clone();
                    endpoint.address.set_ip(ip);
                    Some(endpoint)
                })
                .collect(),
            _ => Vec::new(),
        };
        let view = crate::cluster::EndpointView::empty(args.workers()).update(&endpoints, String::new());
        snapshot.clusters.insert(
            Arc::clone(name),
            Cluster {
                policy: Arc::clone(&part.policy),
                endpoints: Arc::new(view),
                stats: Arc::clone(&part.stats),
                breakers: Arc::clone(&part.breakers),
            },
        );
    }
    snapshot.listeners = graph.listeners.iter().map(|part| Arc::clone(&part.listener)).collect();
    let (sender, receiver) = watch::channel(Arc::new(snapshot));
    let end = CancellationToken::new();
    let setups = worker::setups(args.workers(), &receiver, &end, |at| {
        let state = Arc::clone(&state);
        Box::new(move || Local::new(at, state))
    });
    let threads: Vec<_> =
        setups.into_iter().enumerate().map(|(at, setup)| worker::spawn(at, setup)).collect();
    state.set_phase(Phase::Live);
    for thread in threads.into_iter().flatten() {
        let _ = thread.join();
    }
    drop(sender);
    ExitCode::SUCCESS
}
