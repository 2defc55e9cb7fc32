//! One request of the proxy itself to a cluster by name: a small, whole response, in bounded time
//! and size.
//!
//! A connection for each request: such requests are seconds apart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::cluster::Host;
use crate::cluster::balancer::{self, Cursor, Wanted};
use crate::cluster::subsets::Counts;
use crate::snapshot::Clusters;

/// The clusters that can be asked, as `control` knows them at the moment.
pub(super) type Directory = watch::Receiver<Clusters>;

/// Bytes of a response that is not read.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks clusters.
#[derive(Clone, Debug)]
pub(super) struct Client {
    directory: Directory,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Get<'a> {
    pub cluster: &'a str,
    pub path: &'a str,
    /// From the connection to the last byte.
    pub timeout: Duration,
    /// Bytes of the response's body.
    pub limit: usize,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Post<'a> {
    pub cluster: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    /// JSON.
    pub body: String,
    pub timeout: Duration,
}

/// The response.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub status: u16,
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("there is no cluster `{0}`")]
    NoCluster(String),
    #[error("the cluster `{0}` has no endpoint")]
    NoHost(String),
    #[error("{host}: {problem}")]
    Failed { host: std::net::SocketAddr, problem: String },
    #[error("{host}: no response within {timeout:?}")]
    Timeout { host: std::net::SocketAddr, timeout: Duration },
}

impl Client {
    pub(super) fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// Sends a GET to the next endpoint of the cluster and waits for the whole response.
    pub(super) async fn get(&self, get: Get<'_>, cursor: &mut Cursor) -> Result<Response, Error> {
        self.exchange(get.cluster, request(&get), get.timeout, get.limit, cursor).await
    }

    /// Sends JSON to the next endpoint of the cluster.
    pub(super) async fn post(&self, post: Post<'_>, cursor: &mut Cursor) -> Result<Response, Error> {
        let request = http::Request::post(post.path)
            .header(http::header::HOST, post.host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::CONNECTION, "close")
            .body(Full::from(post.body));
        self.exchange(post.cluster, request, post.timeout, MAX_ANSWER, cursor).await
    }

    async fn exchange(
        &self,
        cluster: &str,
        request: Result<http::Request<Full<Bytes>>, http::Error>,
        timeout: Duration,
        limit: usize,
        cursor: &mut Cursor,
    ) -> Result<Response, Error> {
        let (host, connect_timeout) = self.host(cluster, cursor)?;
        let address = host.address;
        let failed = |problem: String| Error::Failed { host: address, problem };
        let exchange = async {
            let connecting = tokio::time::timeout(connect_timeout, TcpStream::connect(address));
            let stream = match connecting.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(failed(format!("cannot connect: {error}"))),
                Err(_) => return Err(Error::Timeout { host: address, timeout: connect_timeout }),
            };
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| failed(error.to_string()))?;
            let request = request.map_err(|error| failed(error.to_string()))?;
            // The connection is driven beside the request and dropped with it. It may end first:
            // the response is whole then, or an error.
            let response = std::pin::pin!(received(sender.send_request(request), limit));
            let response = match select(response, std::pin::pin!(connection)).await {
                Either::Left((response, _)) => response,
                Either::Right((_, response)) => response.await,
            };
            response.map_err(failed)
        };
        let timed = tokio::time::timeout(timeout, exchange).await;
        timed.unwrap_or(Err(Error::Timeout { host: address, timeout }))
    }

    fn host(&self, name: &str, cursor: &mut Cursor) -> Result<(Arc<Host>, Duration), Error> {
        let directory = self.directory.borrow();
        let cluster = directory.get(name).ok_or_else(|| Error::NoCluster(name.to_owned()))?;
        let policy = &cluster.policy;
        let mut random = |below: u64| fastrand::u64(..below.max(1));
        let (wanted, mut counts) = (Wanted::default(), Counts::default());
        let endpoints = &cluster.endpoints;
        let host = balancer::pick(endpoints, policy.balancer, cursor, &mut random, wanted, &mut counts);
        let host = host.ok_or_else(|| Error::NoHost(name.to_owned()))?;
        Ok((Arc::clone(host), policy.connect_timeout))
    }
}

fn request(get: &Get<'_>) -> Result<http::Request<Full<Bytes>>, http::Error> {
    http::Request::get(get.path)
        .header(http::header::HOST, get.cluster)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Full::default())
}

async fn received(
    response: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
    limit: usize,
) -> Result<Response, String> {
    let response = response.await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), limit).collect().await;
    let body = body.map_err(|error| format!("the body could not be read: {error}"))?;
    Ok(Response { status, body: body.to_bytes() })
}
