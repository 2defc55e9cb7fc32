//! An API server that answers from a script, as the transport of a client: no sockets, so that time can be paused.
//!
//! Lists and watches are answered in the order given; when the script is over, requests hang.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use kube::client::Body;
use tokio::time::{Instant, Sleep, sleep};

use crate::catalog::{Reader, Writer};
use crate::settings::Kubernetes;
use crate::status::Status;
use crate::translate::{Family, Rules};
use crate::watch::{Api, Timing, Watch};

/// How long endpoints are kept that are not ready.
pub const FAIL_STATIC: Duration = Duration::from_secs(300);

/// What the API server will do.
#[derive(Default)]
pub struct Script {
    lists: VecDeque<Reply>,
    watches: VecDeque<Reply>,
    seen: Vec<(Instant, String)>,
    connections: usize,
}

/// One answer.
pub enum Reply {
    /// Not even a response head.
    Never,
    Now {
        status: u16,
        headers: Vec<(&'static str, &'static str)>,
        pieces: Vec<String>,
        end: End,
    },
}

/// How a body ends.
#[derive(Clone, Copy)]
pub enum End {
    Close,
    CloseAfter(Duration),
    Break,
    Silence,
}

/// The watch at work, and what can be seen of it.
pub struct Scripted {
    script: Arc<Mutex<Script>>,
    begun: Instant,
    pub catalog: Reader,
    pub status: Arc<Status>,
}

impl Script {
    pub fn lists(mut self, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.lists.extend(replies);
        self
    }

    pub fn watches(mut self, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.watches.extend(replies);
        self
    }

    pub fn start(self) -> Scripted {
        let kubernetes = Kubernetes {
            api_host: "http://scripted".parse().unwrap(),
            namespace: "shop".into(),
            all_namespaces: false,
            token_path: None,
            ca_path: None,
        };
        let script = Arc::new(Mutex::new(self));
        let status = Arc::new(Status::default());
        let (writer, catalog) = Writer::new(Rules { envoy_port: 10000, family: Family::Auto }, FAIL_STATIC);
        let shared = Arc::clone(&script);
        let connect = move || {
            shared.lock().unwrap().connections += 1;
            let shared = Arc::clone(&shared);
            let service =
                tower::service_fn(move |request: Request<Body>| answer(Arc::clone(&shared), request));
            let client = kube::Client::new(service, "shop");
            Ok(Api::with_client(client, &kubernetes, Timing::default()))
        };
        let watch = Watch::new(Box::new(connect), Timing::default(), writer, Arc::clone(&status));
        tokio::spawn(watch.run());
        Scripted { script, begun: Instant::now(), catalog, status }
    }
}

impl Scripted {
    /// Waits until this many services are known.
    pub async fn until_services(&mut self, count: usize) {
        let enough = |catalog: &Option<Arc<crate::catalog::Catalog>>| {
            catalog.as_ref().is_some_and(|catalog| catalog.services() == count)
        };
        // In paused time: long for any script, and over at once when nothing else is left to do.
        let waited = tokio::time::timeout(Duration::from_secs(3600), self.catalog.wait_for(enough)).await;
        assert!(
            waited.is_ok_and(|known| known.is_ok()),
            "{count} services were never known: {:?}",
            self.seen()
        );
    }

    /// How many endpoints of a service are served.
    pub fn endpoints(&self, service: &str) -> usize {
        let catalog = self.catalog.borrow().clone().expect("synced");
        catalog.get(&format!("{service}.shop")).map_or(0, |cluster| cluster.endpoints.len())
    }

    /// The `resourceVersion=…` of the requests that contain `part`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        let version = |uri: &str| {
            uri.split('&').find(|pair| pair.starts_with("resourceVersion=")).unwrap_or_default().to_owned()
        };
        self.seen().iter().filter(|(_, uri)| uri.contains(part)).map(|(_, uri)| version(uri)).collect()
    }

    /// When the requests that contain `part` came.
    pub fn times(&self, part: &str) -> Vec<Duration> {
        let seen = self.seen();
        seen.iter().filter(|(_, uri)| uri.contains(part)).map(|(when, _)| *when - self.begun).collect()
    }

    pub fn connections(&self) -> usize {
        self.script.lock().unwrap().connections
    }

    pub fn metrics(&self) -> String {
        self.status.metrics(self.catalog.borrow().as_deref()).unwrap()
    }

    /// The errors that were counted, as `kind number`.
    pub fn errors(&self) -> Vec<String> {
        let metrics = self.metrics();
        let errors = metrics.lines().filter_map(|line| line.strip_prefix("sds_watch_errors_total{kind=\""));
        errors.map(|rest| rest.replace("\"}", "")).filter(|error| !error.ends_with(" 0")).collect()
    }

    fn seen(&self) -> Vec<(Instant, String)> {
        self.script.lock().unwrap().seen.clone()
    }
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Now { status, headers: Vec::new(), pieces: vec!["no".into()], end: End::Close }
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Self::Now { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }

    /// A list of one slice for each service.
    pub fn list(version: &str, services: &[&str]) -> Self {
        Self::page(version, services, "")
    }

    /// The same with pods that are not ready.
    pub fn list_unready(version: &str, services: &[&str]) -> Self {
        let mut list = Self::list(version, services);
        if let Self::Now { pieces, .. } = &mut list {
            pieces.iter_mut().for_each(|piece| *piece = with_readiness(piece, false));
        }
        list
    }

    pub fn page(version: &str, services: &[&str], next: &str) -> Self {
        let items: Vec<String> = services.iter().map(|service| slice(service, "3")).collect();
        let items = items.join(",");
        Self::raw(
            &[&format!(
                r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#
            )],
            End::Close,
        )
    }

    /// Complete lines.
    pub fn events(lines: &[&str], end: End) -> Self {
        let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
        Self::raw(&lines.iter().map(String::as_str).collect::<Vec<_>>(), end)
    }

    pub fn raw(pieces: &[&str], end: End) -> Self {
        let pieces = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        Self::Now { status: 200, headers: Vec::new(), pieces, end }
    }
}

pub fn added(service: &str, version: &str) -> String {
    format!(r#"{{"type":"ADDED","object":{}}}"#, slice(service, version))
}

pub fn bookmark(version: u64) -> String {
    format!(r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{version}"}}}}}}"#)
}

/// The pod of a service is called ready, or is not.
pub fn called_ready(service: &str, version: &str, ready: bool) -> String {
    format!(r#"{{"type":"MODIFIED","object":{}}}"#, with_readiness(&slice(service, version), ready))
}

fn with_readiness(slices: &str, ready: bool) -> String {
    let said =
        format!(r#""conditions":{{"ready":{ready},"serving":{ready},"terminating":false}},"targetRef""#);
    slices.replace(r#""targetRef""#, &said)
}

fn slice(service: &str, version: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{service}-1","namespace":"shop","resourceVersion":"{version}",
        "labels":{{"kubernetes.io/service-name":"{service}"}}}},"addressType":"IPv4","ports":[],
        "endpoints":[{{"addresses":["10.0.0.1"],"targetRef":{{"kind":"Pod","uid":"u1"}}}}]}}"#
    )
    .replace('\n', "")
}

async fn answer(
    script: Arc<Mutex<Script>>,
    request: Request<Body>,
) -> Result<Response<Scroll>, std::io::Error> {
    let uri = request.uri().to_string();
    let reply = {
        let mut script = script.lock().unwrap();
        script.seen.push((Instant::now(), uri.clone()));
        if uri.contains("watch=true") { script.watches.pop_front() } else { script.lists.pop_front() }
    };
    let Some(Reply::Now { status, headers, pieces, end }) = reply else { std::future::pending().await };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let pieces = pieces.into_iter().map(Bytes::from).collect();
    Ok(response.body(Scroll { pieces, end, wait: None }).unwrap())
}

/// A body that unrolls.
struct Scroll {
    pieces: VecDeque<Bytes>,
    end: End,
    wait: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Scroll {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Close => Poll::Ready(None),
            End::Break => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
            End::Silence => Poll::Pending,
            End::CloseAfter(time) => {
                let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(time)));
                wait.as_mut().poll(context).map(|()| None)
            }
        }
    }
}
