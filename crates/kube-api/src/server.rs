//! The listeners and the connections, and the handle of a running server.
//!
//! Each listener is one task, each connection another; both end with the server. A listener that goes down keeps its
//! port bound without listening, so that connecting is refused and nobody else takes the port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Counts};
use crate::config::Config;
use crate::faults::Faults;
use crate::gate::Gated;
use crate::kubeconfig;
use crate::store::Store;
use crate::tls::{self, Identity};

/// Time for a TLS handshake, for a client to send the head of a request, and for a connection to be idle (as Go's server).
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const BACKLOG: u32 = 1024;

/// A running server. It stops when dropped; `stop` also waits for it.
#[derive(Debug)]
pub struct Server {
    api: Arc<Api>,
    plain: Option<SocketAddr>,
    tls: Option<SocketAddr>,
    ca_pem: String,
    ca_key: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// What one listener task owns.
struct Listener {
    api: Arc<Api>,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Binds and serves. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If an address cannot be bound or the certificate not made; the text names which.
    pub fn start(config: Config) -> io::Result<Self> {
        let store = Store::new(config.history, config.max_objects);
        for namespace in &config.namespaces {
            store.ensure_namespace(namespace).map_err(io::Error::other)?;
        }
        for node in &config.nodes {
            store.apply(node.object(&config.version)).map_err(io::Error::other)?;
        }
        let plain = config.plain.map(bind).transpose()?;
        let tls = config.tls.map(bind).transpose()?;
        let address =
            |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
        let (plain_address, tls_address) = (address(&plain)?, address(&tls)?);
        let mut ips = config.tls_ips.clone();
        ips.extend(tls_address.map(|address| address.ip()));
        let identity = tls::identity(config.ca_key.as_deref(), &config.tls_names, &ips)?;

        let count = usize::from(plain.is_some()) + usize::from(tls.is_some());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let faults = Faults::new(&store, config.tokens.clone(), count, stop.clone());
        let api = Arc::new(Api { config, store, faults, counts: watch::Sender::default() });
        let Identity { config: tls_config, ca_pem, ca_key } = identity;
        for (listener, tls) in [(plain, None), (tls, Some(TlsAcceptor::from(tls_config)))] {
            let Some(listener) = listener else { continue };
            let own = Listener {
                api: Arc::clone(&api),
                address: listener.local_addr()?,
                tls,
                places: Arc::new(Semaphore::new(api.config.max_connections)),
                stop: stop.clone(),
                tasks: tasks.clone(),
            };
            tasks.spawn(own.run(listener));
        }
        tasks.close();
        Ok(Self { api, plain: plain_address, tls: tls_address, ca_pem, ca_key, stop, tasks })
    }

    /// Where plain HTTP is served.
    pub fn plain_addr(&self) -> Option<SocketAddr> {
        self.plain
    }

    /// Where HTTPS is served.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls
    }

    /// The certificate of the CA that signed the server's, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The key of the CA in PEM, for the `ca_key` of a later server.
    pub fn ca_key_pem(&self) -> &str {
        &self.ca_key
    }

    /// A kubeconfig (YAML) for kubectl with this token; empty: without one. It speaks HTTPS where that is served,
    /// because kubectl sends no token over plain HTTP.
    pub fn kubeconfig(&self, token: &str) -> String {
        kubeconfig::render(self.plain, self.tls, &self.ca_pem, token)
    }

    /// The objects.
    pub fn store(&self) -> Store {
        self.api.store.clone()
    }

    /// The faults.
    pub fn faults(&self) -> Faults {
        self.api.faults.clone()
    }

    /// The requests so far; a test waits with it for what a client does next:
    /// `server.counts().wait_for(|counts| counts.watches >= 2).await`.
    pub fn counts(&self) -> watch::Receiver<Counts> {
        self.api.counts.subscribe()
    }

    /// Stops: cuts all connections, and returns when the ports are free.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Listener {
    async fn run(self, listener: TcpListener) {
        let mut power = self.api.faults.power();
        let mut listener = listener;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = power.wait_for(|up| !up) => {}
                () = self.accept(&listener) => {}
            }
            drop(listener);
            let reserved = reserve(self.address);
            self.api.faults.listening(false);
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = power.wait_for(|up| *up) => {}
            }
            listener = match reserved.and_then(|socket| socket.listen(BACKLOG)) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(address = %self.address, %error, "cannot listen again; the server stops");
                    self.stop.cancel();
                    return;
                }
            };
            self.api.faults.listening(true);
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        loop {
            // Closed semaphores do not occur: nobody closes it.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.tasks.spawn(self.connection(stream, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (api, tls, stop) = (Arc::clone(&self.api), self.tls.clone(), self.stop.clone());
        let mut cuts = api.faults.cuts();
        async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = cuts.changed() => {}
                () = converse(api, stream, tls) => {}
            }
        }
    }
}

// Errors of a connection are the client's business; the server has nothing to tell anyone.
async fn converse(api: Arc<Api>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    let gate = api.faults.gate();
    match tls {
        None => serve(api, Gated::new(stream, gate)).await,
        // Gated on both sides: below, a stall also freezes the handshake; above, a truncated chunk is a whole record.
        Some(acceptor) => {
            let below = Gated::frozen_only(stream, gate.clone());
            if let Ok(Ok(stream)) = timeout(HEADER_TIMEOUT, acceptor.accept(below)).await {
                serve(api, Gated::new(stream, gate)).await;
            }
        }
    }
}

async fn serve(api: Arc<Api>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    reserve(address).and_then(|socket| socket.listen(BACKLOG)).map_err(named)
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
