//! STRICT_DNS and LOGICAL_DNS: names looked up again and again.
//!
//! Strict: every address of every name is an endpoint. Logical: the first address of the one name.
//! A name that does not exist has no endpoints; a failed look-up keeps its last addresses. A name
//! that is an IP address is not looked up. The first round ends the cluster's, with any result,
//! warming.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;

use super::resolve::{Resolved, Resolver};
use super::{Reporter, Update, jitter};
use crate::build::discovery::{Dns, Name, at};
use crate::cluster::Endpoint;
use crate::time::Backoff;

/// No record's life makes us ask more often than this.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// Looks up until the writer has gone.
pub(super) async fn run(dns: Dns, reporter: Reporter) {
    let resolver = match Resolver::new(&dns.resolver) {
        Ok(resolver) => resolver,
        Err(problem) => {
            tracing::error!("no DNS resolver: {problem}");
            reporter.tell(Update::GaveUp).await;
            return;
        }
    };
    let mut names: Vec<Known<'_>> = dns.names.iter().map(Known::new).collect();
    let fixed = names.iter().all(|known| known.fixed);
    let mut backoff = dns.failure_refresh.map(|(first, longest)| Backoff::new(first, longest));
    let mut sent: Option<Vec<Endpoint>> = None;
    loop {
        let failed = round(&dns, &resolver, &mut names, &reporter).await;
        let endpoints = endpoints(&dns, &names);
        if sent.as_ref() != Some(&endpoints) {
            let update = Update::Members { endpoints: endpoints.clone(), version: String::new() };
            if !reporter.tell(update).await {
                return;
            }
            sent = Some(endpoints);
        } else if !fixed {
            reporter.stats().update_no_rebuild.inc();
        }
        if fixed {
            return;
        }
        let wait = match &mut backoff {
            Some(backoff) if failed => backoff.next(fastrand::f64()),
            backoff => {
                backoff.iter_mut().for_each(Backoff::reset);
                refresh(&dns, &names, failed)
            }
        };
        tokio::time::sleep((wait + jitter(dns.jitter)).max(SHORTEST_WAIT)).await;
    }
}

/// A name and its last addresses.
struct Known<'n> {
    name: &'n Name,
    resolved: Resolved,
    fixed: bool,
    failing: bool,
}

impl<'n> Known<'n> {
    fn new(name: &'n Name) -> Self {
        let ip: Option<IpAddr> = name.host.parse().ok();
        let resolved = Resolved { ips: ip.into_iter().collect(), ttl: None };
        Self { name, resolved, fixed: ip.is_some(), failing: false }
    }
}

/// Looks all names up once; true when a look-up failed.
async fn round(dns: &Dns, resolver: &Resolver, names: &mut [Known<'_>], reporter: &Reporter) -> bool {
    for _ in names.iter().filter(|known| known.fixed) {
        reporter.stats().update_attempt.inc();
        reporter.stats().update_success.inc();
    }
    let look_ups = names.iter_mut().filter(|known| !known.fixed).map(|known| async {
        let stats = reporter.stats();
        stats.update_attempt.inc();
        match resolver.look_up(&known.name.host, dns.family).await {
            Ok(found) => {
                stats.update_success.inc();
                if found.ips.is_empty() {
                    stats.update_empty.inc();
                }
                if !(dns.logical && found.ips.is_empty()) {
                    known.resolved = found;
                }
                known.failing = false;
            }
            Err(problem) => {
                stats.update_failure.inc();
                if !known.failing {
                    tracing::warn!(name = known.name.host, "the name could not be looked up: {problem}");
                }
                known.failing = true;
            }
        }
        known.failing
    });
    join_all(look_ups).await.into_iter().any(|failing| failing)
}

fn endpoints(dns: &Dns, names: &[Known<'_>]) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::new();
    for known in names {
        let mut ips = known.resolved.ips.clone();
        // Servers rotate their addresses; the order must not look like a change.
        if !dns.logical {
            ips.sort_unstable();
            ips.dedup();
        }
        all.extend(ips.into_iter().map(|ip| at(&known.name.template, ip)));
    }
    all
}

/// The wait after a round.
fn refresh(dns: &Dns, names: &[Known<'_>], failed: bool) -> Duration {
    let ttl = names.iter().filter_map(|known| known.resolved.ttl).min();
    let ttl = ttl.filter(|ttl| !failed && dns.respect_ttl && !ttl.is_zero());
    ttl.unwrap_or(dns.refresh)
}
