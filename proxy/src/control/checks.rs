//! Active health checks at work: one task for each host, which checks, reports to the writer, and
//! waits as long as the writer says.
//!
//! What a result means is decided by `cluster::health`. A response is read up to a limit, and every
//! check ends with its timeout.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Reporter;
use crate::cluster::health::{Outcome, Probe, Settings, Target};
use crate::stats::{HealthCheckStats, Scope};

mod connection;
mod grpc;
mod http;
mod tcp;

/// What one checker works by.
#[derive(Clone)]
pub(super) struct Check {
    pub settings: Arc<Settings>,
    pub stats: Arc<Scope<HealthCheckStats>>,
    /// The endpoint.
    pub host: SocketAddr,
    pub target: Target,
    pub reporter: Reporter,
}

/// One way of asking, with its connection where it has one.
enum Checker {
    Http(http::Checker),
    Grpc(grpc::Checker),
    Tcp(tcp::Checker),
}

/// Asks until the host is not checked any more.
pub(super) async fn run(check: Check) {
    let mut checker = Checker::new(&check);
    tokio::time::sleep(check.settings.intervals.first(&mut |bound| fastrand::u64(..bound.max(1)))).await;
    loop {
        check.stats.shard(check.reporter.shard).attempt.inc();
        let asked = tokio::time::timeout(check.settings.timeout, checker.ask()).await;
        let outcome = asked.unwrap_or_else(|_elapsed| {
            checker.give_up();
            Outcome::Timeout
        });
        let Some(wait) = check.reporter.checked(check.host, outcome).await else { return };
        let mut wait = wait;
        // A connection that ends between two checks is a failure of its own, and begins a new wait.
        while tokio::time::timeout(wait, checker.broken()).await.is_ok() {
            wait = match check.reporter.checked(check.host, Outcome::Network).await {
                Some(wait) => wait,
                None => return,
            };
        }
    }
}

impl Checker {
    fn new(check: &Check) -> Self {
        let (address, reuse) = (check.target.of(check.host), check.settings.reuse_connection);
        let hostname = &check.target.hostname;
        match &check.settings.probe {
            Probe::Http(probe) => {
                let stats = (Arc::clone(&check.stats), check.reporter.shard);
                Self::Http(http::Checker::new(Arc::clone(probe), address, hostname, reuse, stats))
            }
            Probe::Grpc(probe) => {
                let timeout = check.settings.timeout;
                Self::Grpc(grpc::Checker::new(Arc::clone(probe), address, hostname, reuse, timeout))
            }
            Probe::Tcp(probe) => Self::Tcp(tcp::Checker::new(Arc::clone(probe), address, reuse)),
        }
    }

    async fn ask(&mut self) -> Outcome {
        match self {
            Self::Http(checker) => checker.ask().await,
            Self::Grpc(checker) => checker.ask().await,
            Self::Tcp(checker) => checker.ask().await,
        }
    }

    /// The check took too long.
    fn give_up(&mut self) {
        match self {
            Self::Http(checker) => checker.give_up(),
            Self::Grpc(checker) => checker.give_up(),
            Self::Tcp(checker) => checker.give_up(),
        }
    }

    /// Waits until a connection that is kept for the next check ends; for ever where that says nothing.
    async fn broken(&mut self) {
        match self {
            Self::Tcp(checker) => checker.broken().await,
            Self::Http(_) | Self::Grpc(_) => std::future::pending().await,
        }
    }
}

/// The value of `host`: the endpoint's own name for checks, else the check's.
fn host(endpoint: &str, check: &str) -> String {
    if endpoint.is_empty() { check.to_owned() } else { endpoint.to_owned() }
}
