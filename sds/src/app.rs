//! Wiring: settings in, a running discovery service out, and its ordered end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lifecycle::{Lifecycle, Outcome, Shutdown};
use tracing::{info, warn};

use crate::catalog::{Reader, Writer};
use crate::health::{self, Health};
use crate::server::{self, Limits};
use crate::settings::{Kubernetes, Settings};
use crate::status::Status;
use crate::v1::{self, Registrations};
use crate::watch::{Api, Timing, Watch};

/// The end of running requests after SIGTERM; Kubernetes itself allows 30 s.
const DRAIN: Duration = Duration::from_secs(10);

/// A service that runs. For tests, which want to look inside; `main` only waits for its end.
pub struct Running {
    pub address: SocketAddr,
    pub catalog: Reader,
    pub status: Arc<Status>,
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {source}; change --listen, LISTEN_ADDR or `listen` in the settings file"
)]
pub struct CannotListen {
    address: SocketAddr,
    source: io::Error,
}

/// Serves until a signal, then drains.
///
/// # Errors
/// When the address cannot be bound or signals cannot be heard.
pub async fn run(settings: &Settings) -> Result<Outcome, Box<dyn std::error::Error>> {
    let lifecycle = Lifecycle::from_signals()?;
    start(settings, Timing::default(), Limits::default(), &lifecycle.shutdown()).await?;
    Ok(lifecycle.drain(DRAIN).await)
}

/// Starts the watch and the server as tasks and returns.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start(
    settings: &Settings,
    timing: Timing,
    limits: Limits,
    shutdown: &Shutdown,
) -> Result<Running, CannotListen> {
    // Refused only if the process has one already, and then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cannot = |source| CannotListen { address: settings.listen, source };
    let listener = server::bind(settings.listen).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;

    let kubernetes = settings.kubernetes.clone();
    let watching = kubernetes.to_string();
    info!("watching {watching}");
    warn_if_readable(&kubernetes);
    let status = Arc::new(Status::default());
    let (writer, catalog) = Writer::new(settings.rules, settings.fail_static);
    let connect = Box::new(move || Api::new(&kubernetes, timing));
    shutdown.spawn(until(shutdown.clone(), Watch::new(connect, timing, writer, Arc::clone(&status)).run()));
    shutdown.spawn(until(shutdown.clone(), announce_sync(catalog.clone())));

    let registrations = Registrations {
        catalog: catalog.clone(),
        status: Arc::clone(&status),
        namespace: settings.kubernetes.namespace.clone(),
        all_namespaces: settings.kubernetes.all_namespaces,
    };
    let health = Health {
        catalog: catalog.clone(),
        status: Arc::clone(&status),
        shutdown: shutdown.clone(),
        watching,
    };
    let router = v1::router(registrations).merge(health::router(health));
    info!("serving http://{address}/v1/registration/{{service}}");
    shutdown.spawn(server::serve(listener, router, limits, shutdown.clone()));
    Ok(Running { address, catalog, status })
}

async fn until(shutdown: Shutdown, task: impl Future<Output = Infallible>) {
    tokio::select! {
        never = task => match never {},
        () = shutdown.requested() => {}
    }
}

async fn announce_sync(mut catalog: Reader) -> Infallible {
    if let Ok(synced) = catalog.wait_for(Option::is_some).await
        && let Some(catalog) = synced.as_deref()
    {
        info!("synced: {} services, {} endpoints", catalog.services(), catalog.endpoints());
    }
    std::future::pending().await
}

fn warn_if_readable(kubernetes: &Kubernetes) {
    let plain = kubernetes.api_host.scheme_str() == Some("http");
    let host = kubernetes.api_host.host().unwrap_or_default();
    let local = host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if plain && !local && kubernetes.token_path.is_some() {
        warn!("the token goes to {} unencrypted; use https", kubernetes.api_host);
    }
}
