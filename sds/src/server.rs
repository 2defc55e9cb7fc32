//! The HTTP/1.1 server of sds: accepts, limits, and ends in good order.
//!
//! After SIGTERM it goes on accepting for a moment, because proxies and the Service learn of the end later than we do; each
//! answer then says `Connection: close`.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lifecycle::{Draining, FIRST_REQUEST, Shutdown};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::debug;

use crate::v1::error;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

const PAGES: &str =
    "no such page; there are /v1/registration/{service}, /livez, /readyz, /metrics and /debug";

/// Limits of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the accept queue.
    pub connections: usize,
    /// To send a request head, the pause before it included: more than the refresh delay of a proxy, usually.
    pub head: Duration,
    /// How long new connections are accepted after the shutdown was requested.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, head: Duration::from_secs(90), linger: Duration::from_secs(2) }
    }
}

/// Listens at an address. `[::]` is every address of this machine, those of IPv4 too whatever the
/// kernel's default is, and where the kernel has no IPv6 those alone.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let any = address.is_ipv6() && address.ip().is_unspecified();
    let socket = match Socket::new(Domain::for_address(address), Type::STREAM, None) {
        Err(_) if any => return bind((Ipv4Addr::UNSPECIFIED, address.port()).into()),
        socket => socket?,
    };
    if any {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    match socket.bind(&address.into()) {
        // IPv6 is there and switched off.
        Err(error) if any && error.kind() == io::ErrorKind::AddrNotAvailable => {
            return bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
        }
        bound => bound?,
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Serves until shutdown is requested and `linger` has passed; then running requests end as tasks of `shutdown`.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    let router = router.fallback(async || error(StatusCode::NOT_FOUND, PAGES));
    let ending = shutdown.clone();
    let router =
        router.layer(from_fn(move |request: Request, next: Next| close(request, next, ending.clone())));
    let free = Arc::new(Semaphore::new(limits.connections));
    let mut listener = Draining::new(listener, lingered(shutdown.clone(), limits.linger));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await
        && let Some(stream) = listener.accept().await
    {
        let connection = connection(stream, router.clone(), limits, shutdown.clone());
        shutdown.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
}

fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) -> impl Future<Output = ()> {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    async move {
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = lingered(shutdown, limits.linger + FIRST_REQUEST) => {
                // An idle connection closes now, a busy one after its answer. Not before the time to linger is over: a
                // request that is on its way would meet a closed door.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            debug!("a connection ended badly: {error}");
        }
    }
}

async fn lingered(shutdown: Shutdown, linger: Duration) {
    shutdown.requested().await;
    sleep(linger).await;
}

async fn close(request: Request, next: Next, shutdown: Shutdown) -> Response {
    let mut response = next.run(request).await;
    if shutdown.is_requested() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
