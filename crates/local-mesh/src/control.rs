//! Commands to a running supervisor: one JSON line each way over a Unix socket in the mesh's folder.
//!
//! The supervisor serves it; the command line and the tests are its clients. Uses the folder's layout only.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::dir::Dir;
use crate::error::Error;

/// The longest request or answer line in bytes.
const MAX_LINE: u64 = 1024 * 1024;

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// The mesh as it is.
    Status,
    /// As many living pods of a service as said.
    Scale {
        /// Name of the service.
        service: String,
        /// Living pods wanted.
        replicas: u32,
        /// Kill leaving pods at once, instead of letting them serve until every caller has heard of it.
        now: bool,
    },
    /// A signal to every process of a pod.
    Kill {
        /// Name of the pod.
        pod: String,
        /// Name of the signal, as [`crate::process::parse_signal`] knows it.
        signal: String,
    },
    /// Ends a pod in order and starts it again; with a service's name all its pods, one after the other.
    Restart {
        /// Name of a pod or service.
        name: String,
    },
    /// Makes the Kubernetes API or DNS fail; for tests.
    Fault {
        /// `none` (all well again), `down` (no Kubernetes API), `unready` (every slice calls every
        /// endpoint not ready), a status with which the API responds to every request, or `no-dns`
        /// (DNS gives no response).
        fault: String,
    },
    /// Ends the mesh.
    Down,
}

/// What the supervisor answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The mesh as it is.
    Status(Status),
    /// Done or begun; what exactly, in words.
    Done(String),
    /// Not done; why.
    Refused(String),
}

/// The whole mesh: what `petmesh ps -o json` prints and `state.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The process that holds everything together.
    pub supervisor: Supervisor,
    /// Every pod, in the order of the services.
    pub pods: Vec<Pod>,
    /// Names of the pods that are being restarted or wait for it, in order.
    #[serde(default)]
    pub restarting: Vec<String>,
}

/// The supervisor and what it serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Supervisor {
    /// Its process id.
    pub pid: u32,
    /// URL of the Kubernetes API.
    pub kubernetes_api: String,
    /// File for kubectl.
    pub kubeconfig: PathBuf,
    /// Address of the DNS responder.
    pub dns: String,
    /// Its log.
    pub log: PathBuf,
}

/// One pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pod {
    /// `pet-1`
    pub name: String,
    /// `pet`
    pub service: String,
    /// Its loopback address.
    pub address: Ipv4Addr,
    /// What it is doing.
    pub state: State,
    /// Why it crashed, if it did.
    pub reason: Option<String>,
    /// The ports that it listens on.
    pub ports: Vec<u16>,
    /// Its processes, by the name of the container.
    pub containers: BTreeMap<String, Container>,
}

/// What a pod is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its processes have been started; it has not been ready yet.
    Starting,
    /// It is in its Service.
    Ready,
    /// Its processes run, but its readiness probe fails.
    NotReady,
    /// It has been told to go and ends in order.
    Leaving,
    /// A process of it ended without having been told to.
    Crashed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::Leaving => "leaving",
            Self::Crashed => "crashed",
        })
    }
}

/// One process of a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// Its process id; none if it has not started or has ended.
    pub pid: Option<u32>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Where its access log goes, if it is a proxy.
    pub access_log: Option<PathBuf>,
}

/// Sends one request to the supervisor of `dir` and waits for its answer.
///
/// # Errors
/// [`Error::NotRunning`] if nobody listens; [`Error::Refused`] with the supervisor's words.
pub fn send(dir: &Dir, request: &Request) -> Result<Reply, Error> {
    let socket = dir.socket();
    let stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        // A lock without a listener is a supervisor that is just starting or ending.
        Err(_) if !dir.is_taken() => return Err(Error::NotRunning(dir.path().to_owned())),
        Err(error) => return Err(Error::io("reach the supervisor at", &socket, error)),
    };
    let mut line = serde_json::to_vec(request).map_err(|e| Error::Refused(e.to_string()))?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(|e| Error::io("write to", &socket, e))?;
    let mut answer = String::new();
    BufReader::new(&stream)
        .take(MAX_LINE)
        .read_line(&mut answer)
        .map_err(|e| Error::io("read from", &socket, e))?;
    match serde_json::from_str(&answer) {
        Ok(Reply::Refused(reason)) => Err(Error::Refused(reason)),
        Ok(reply) => Ok(reply),
        Err(_) => Err(Error::Refused("the supervisor ended before it answered; its log says why".to_owned())),
    }
}

/// The mesh as it is.
///
/// # Errors
/// As [`send`].
pub fn status(dir: &Dir) -> Result<Status, Error> {
    match send(dir, &Request::Status)? {
        Reply::Status(status) => Ok(status),
        other => Err(Error::Refused(format!("unexpected answer {other:?}"))),
    }
}

/// A request on its way to the supervisor, with the place for its answer.
pub type Command = (Request, oneshot::Sender<Reply>);

/// Takes connections until the task is dropped; each carries one request.
pub async fn serve(listener: UnixListener, commands: mpsc::Sender<Command>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(exchange(stream, commands.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn exchange(mut stream: tokio::net::UnixStream, commands: mpsc::Sender<Command>) {
    let mut line = String::new();
    let (read, mut write) = stream.split();
    if tokio::io::BufReader::new(read.take(MAX_LINE)).read_line(&mut line).await.is_err() {
        return;
    }
    let reply = match serde_json::from_str::<Request>(&line) {
        Err(error) => Reply::Refused(format!("not a request: {error}")),
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            if commands.send((request, answer)).await.is_err() {
                return;
            }
            let Ok(reply) = answered.await else { return };
            reply
        }
    };
    let Ok(mut line) = serde_json::to_vec(&reply) else { return };
    line.push(b'\n');
    if let Err(error) = write.write_all(&line).await {
        tracing::debug!(%error, "a control client has gone before its answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_supervisor_the_client_says_how_to_start_one() {
        let temp = tempfile::tempdir().unwrap();
        let error = status(&Dir::new(temp.path().join("mesh"))).unwrap_err().to_string();
        assert!(error.contains("no mesh is running") && error.contains("petmesh up"), "{error}");
    }

    #[tokio::test]
    async fn a_request_reaches_the_supervisor_and_its_refusal_comes_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        let (commands, mut received) = mpsc::channel(1);
        tokio::spawn(serve(UnixListener::bind(dir.socket()).unwrap(), commands));
        let client = tokio::task::spawn_blocking(move || {
            send(&dir, &Request::Scale { service: "pet".into(), replicas: 3, now: false })
        });
        let (request, answer) = received.recv().await.unwrap();
        assert_eq!(request, Request::Scale { service: "pet".into(), replicas: 3, now: false });
        answer.send(Reply::Refused("too many".into())).unwrap();
        assert_eq!(client.await.unwrap().unwrap_err().to_string(), "too many");
    }
}
