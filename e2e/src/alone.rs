//! One proxy of the mesh alone, with the file that deploy/config ships for it, between hosts that a test plays.
//!
//! Only the clusters lead elsewhere: to hosts that record what arrives and then respond or break.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use local_mesh::plan;

use crate::substrate::local::binaries;
use crate::{config, http};

/// More than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest request head that a host reads, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A running proxy; it ends with this value.
pub struct Alone {
    process: Child,
    address: Ipv4Addr,
    _temp: tempfile::TempDir,
}

impl Alone {
    /// Starts the proxy of `service` (the `ingress`, or a sidecar). Each named cluster has the hosts that stand beside it.
    pub async fn start(
        service: &str,
        clusters: &[(&str, &[SocketAddr])],
        edit: impl Fn(&mut Value) + Sync,
    ) -> Self {
        let address = address();
        let text = config::edited(service, &config::text(service, None), &|tree: &mut Value| {
            move_to(tree, address);
            let all = tree["static_resources"]["clusters"].as_array_mut().expect("clusters");
            for cluster in all {
                let name = cluster["name"].as_str().unwrap_or_default().to_owned();
                let fields = cluster.as_object_mut().expect("a cluster");
                let hosts = clusters.iter().find(|(named, _)| *named == name).map(|(_, hosts)| *hosts);
                // Discovery is away; clusters that the test does not need have no host.
                if hosts.is_some() || fields.remove("eds_cluster_config").is_some() {
                    fields.remove("eds_cluster_config");
                    fields.insert("type".to_owned(), "STATIC".into());
                    fields.insert("load_assignment".to_owned(), assignment(&name, hosts.unwrap_or_default()));
                }
            }
            edit(tree);
        });
        let temp = tempfile::tempdir().expect("a temporary folder");
        let file = temp.path().join("envoy.yaml");
        std::fs::write(&file, text).expect("the proxy's file is written");
        let bin_dir = binaries();
        let program = if service == "ingress" { "ingress" } else { "proxy" };
        let process = Command::new(bin_dir.join("petmesh"))
            .args(["exec-child", "--parent", &std::process::id().to_string(), "--"])
            .arg(bin_dir.join(program))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the proxy starts");
        let alone = Self { process, address, _temp: temp };
        alone.until_ready().await;
        alone
    }

    /// The inbound or outbound listener.
    #[must_use]
    pub fn listener(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    async fn until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        let probes = self.listener(plan::PROBES);
        while !http::get(probes, "probe", "/ready", &[]).await.is_ok_and(|answer| answer.status == 200) {
            assert!(Instant::now() < end, "the proxy never became ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a host does with each request.
#[derive(Debug, Clone, Copy)]
pub enum Behaviour {
    /// Responds 200 with an empty body.
    Respond,
    /// Reads the request and resets the connection after this time.
    Reset(Duration),
}

/// A host that a test plays: it records the request lines that arrive.
pub struct Host {
    /// Where it listens.
    pub address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// Listens until the test ends.
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let recorded = lines.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, behaviour, recorded.clone()));
            }
        });
        Self { address, lines }
    }

    /// The request lines so far, in order of arrival.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no test panics here").clone()
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, lines: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|end| end == b"\r\n\r\n") {
            if buffer.len() > MAX_HEAD || !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        let head = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let line = head.lines().next().unwrap_or_default().to_owned();
        lines.lock().expect("no test panics here").push(line);
        match behaviour {
            Behaviour::Respond => {
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
            Behaviour::Reset(after) => {
                tokio::time::sleep(after).await;
                // With a linger time of zero the kernel sends RST.
                let _ = stream.set_zero_linger();
                return;
            }
        }
    }
}

/// An address for each proxy of each test process.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn assignment(name: &str, hosts: &[SocketAddr]) -> Value {
    let endpoint = |host: &SocketAddr| {
        let socket = json!({ "address": host.ip().to_string(), "port_value": host.port() });
        json!({ "endpoint": { "address": { "socket_address": socket } } })
    };
    let endpoints: Vec<Value> = hosts.iter().map(endpoint).collect();
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] })
}

/// Puts every listener and the admin interface at one address.
fn move_to(tree: &mut Value, address: Ipv4Addr) {
    match tree {
        Value::Object(fields) => {
            if let Some(socket) = fields.get_mut("socket_address")
                && ["::", "0.0.0.0", "127.0.0.1"].iter().any(|own| socket["address"] == *own)
            {
                socket["address"] = address.to_string().into();
            }
            fields.values_mut().for_each(|value| move_to(value, address));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_to(item, address)),
        _ => {}
    }
}
