//! SDS v1: `GET /v1/registration/{service}` at a cluster, again and again (`REST_LEGACY`).
//!
//! Only a 200 with a whole, valid registration changes anything; anything else keeps the last
//! known endpoints and is counted. Until the first success it backs off from 100 ms to
//! `refresh_delay`; after that the wait is `refresh_delay` plus up to half of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use xds::sds_v1::{Host, Registration};

use super::client::{Client, Get};
use super::{Reporter, Update, jitter};
use crate::build::discovery::SdsV1;
use crate::cluster::balancer::Cursor;
use crate::cluster::{Endpoint, Locality};
use crate::time::Backoff;

/// Bytes of a response: some 50,000 hosts.
const BODY_LIMIT: usize = 8 << 20;

const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Asks until the writer has gone.
pub(super) async fn run(sds: SdsV1, client: Client, reporter: Reporter) {
    let path = format!("/v1/registration/{}", sds.service);
    let mut cursor = Cursor::default();
    let mut known = false;
    let (mut failing, mut backoff) = (false, Backoff::new(FIRST_WAIT, sds.refresh_delay));
    loop {
        match ask(&sds, &client, &path, &mut cursor, &reporter).await {
            Ok(endpoints) => {
                if failing {
                    tracing::info!(cluster = sds.cluster, service = sds.service, "registrations come again");
                }
                (known, failing) = (true, false);
                if !reporter.tell(Update::Members { endpoints, version: String::new() }).await {
                    return;
                }
            }
            Err(problem) => {
                // Logged once for each outage; the counters have the rest.
                if !failing {
                    tracing::warn!(
                        cluster = sds.cluster,
                        service = sds.service,
                        "no registration: {problem}"
                    );
                }
                failing = true;
            }
        }
        let wait = if known {
            sds.refresh_delay + jitter(sds.refresh_delay / 2)
        } else {
            backoff.next(fastrand::f64())
        };
        tokio::time::sleep(wait).await;
    }
}

async fn ask(
    sds: &SdsV1,
    client: &Client,
    path: &str,
    cursor: &mut Cursor,
    reporter: &Reporter,
) -> Result<Vec<Endpoint>, String> {
    let stats = reporter.stats();
    stats.update_attempt.inc();
    let get = Get { cluster: &sds.cluster, path, timeout: sds.request_timeout, limit: BODY_LIMIT };
    let response = match client.get(get, cursor).await {
        Ok(response) if response.status == 200 => response,
        Ok(response) => {
            stats.update_failure.inc();
            return Err(format!("the response's status is {}", response.status));
        }
        Err(error) => {
            stats.update_failure.inc();
            return Err(error.to_string());
        }
    };
    let endpoints = serde_json::from_slice(&response.body)
        .map_err(|error| format!("the response is not a registration: {error}"))
        .and_then(|registration| endpoints(&registration));
    match &endpoints {
        Ok(endpoints) => {
            stats.update_success.inc();
            if endpoints.is_empty() {
                stats.update_empty.inc();
            }
        }
        Err(_) => {
            stats.update_failure.inc();
            stats.update_rejected.inc();
        }
    }
    endpoints
}

/// All hosts, or what is wrong with the first bad one: half a registration would look like a lost half.
fn endpoints(registration: &Registration) -> Result<Vec<Endpoint>, String> {
    registration.hosts.iter().map(endpoint).collect()
}

fn endpoint(host: &Host) -> Result<Endpoint, String> {
    let ip: IpAddr =
        host.ip_address.parse().map_err(|_| format!("`{}` is not an IP address", host.ip_address))?;
    if host.port == 0 {
        return Err(format!("{ip} has the port 0"));
    }
    let weight = host.tags.load_balancing_weight;
    if !(1..=128).contains(&weight) {
        return Err(format!("{ip} has the weight {weight}, which is not in 1 to 128"));
    }
    Ok(Endpoint {
        weight,
        locality: Locality { zone: host.tags.az.clone(), ..Locality::default() },
        canary: host.tags.canary,
        ..Endpoint::new(SocketAddr::new(ip, host.port))
    })
}
