//! The proxy as a process: its configuration, its statistics, its logs.
//!
//! `CLIENTS_PROXY=envoy` runs the same tests with another program, to record or compare what it
//! does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What a test waits for comes long before this, or never.
pub const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Asks again until there is a result; `None` at the deadline.
pub fn poll<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = ask() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

pub fn wait<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    poll(DEADLINE, ask).unwrap_or_else(|| panic!("waited in vain for {what}"))
}

/// An address of this test process alone, so that no other process takes its ports.
pub fn ip() -> IpAddr {
    if cfg!(not(target_os = "linux")) {
        return Ipv4Addr::LOCALHOST.into();
    }
    let id = std::process::id();
    let part = |shift: u32| u8::try_from((id >> shift) & 0xff).unwrap();
    Ipv4Addr::new(127, 64 | (part(16) & 63), part(8), part(0).clamp(1, 254)).into()
}

/// A port below those that the kernel gives away, and never the same twice.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((ip(), port)).is_ok() {
            return port;
        }
    }
}

pub fn at(port: u16) -> SocketAddr {
    (ip(), port).into()
}

/// The gauge of a listener's open connections.
pub fn active(port: u16) -> String {
    format!("listener.{}_{port}.downstream_cx_active", ip())
}

/// Objects are merged; null takes a key away; anything else replaces what was there.
pub fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(&key);
                } else {
                    merge(under.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (under, over) => *under = over,
    }
}

pub fn merged(mut under: Value, over: Value) -> Value {
    merge(&mut under, over);
    under
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": ip().to_string(), "port_value": port } })
}

pub fn typed(name: &str, message: &str, fields: Value) -> Value {
    let mut config = json!({ "@type": format!("type.googleapis.com/{message}") });
    merge(&mut config, fields);
    json!({ "name": name, "typed_config": config })
}

pub fn router() -> Value {
    typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

/// A listener with one network filter.
pub fn listener(name: &str, port: u16, filter: &Value) -> Value {
    json!({ "name": name, "address": address(port), "filter_chains": [{ "filters": [filter] }] })
}

/// An HTTP listener; `more` is merged into its connection manager.
pub fn http(name: &str, port: u16, routes: &Value, more: Value) -> Value {
    let manager = json!({
        "stat_prefix": name,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        "http_filters": [router()],
    });
    let message = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    listener(name, port, &typed("http", message, merged(manager, more)))
}

pub fn route(cluster: &str) -> Value {
    json!([{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } }])
}

pub fn cluster(name: &str, port: u16, more: Value) -> Value {
    let base = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "60s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": address(port) } }
        ] }] },
    });
    merged(base, more)
}

/// Merged into a cluster whose hosts speak HTTP/2; `options` is its `http2_protocol_options`.
pub fn speaks_http2(options: &Value) -> Value {
    json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": options },
        },
    } })
}

/// An access log in a file; `format` is a string or an object.
pub fn access_log(path: &Path, format: &Value) -> Value {
    let kind = if format.is_object() { "json_format" } else { "text_format_source" };
    let format = if format.is_object() { format.clone() } else { json!({ "inline_string": format }) };
    let fields = json!({ "path": path, "log_format": { kind: format } });
    typed("file", "envoy.extensions.access_loggers.file.v3.FileAccessLog", fields)
}

pub fn config(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

pub struct Proxy {
    child: Child,
    folder: tempfile::TempDir,
    admin: u16,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    pub fn start(config: &Value) -> Self {
        Self::start_with(config, &[])
    }

    /// One worker, more arguments; waits until it is ready.
    pub fn start_with(config: &Value, arguments: &[&str]) -> Self {
        Self::launch(config, arguments, None)
    }

    /// In the control group with these `cgroup.procs`.
    pub fn start_within(config: &Value, group: &Path) -> Self {
        Self::launch(config, &[], Some(group))
    }

    fn launch(config: &Value, arguments: &[&str], group: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = free_port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let path = folder.path().join("proxy.json");
        std::fs::write(&path, with_admin(config, admin)).unwrap();
        let program = std::env::var("CLIENTS_PROXY");
        let path_of_program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_proxy"));
        let mut command = match group {
            Some(group) => {
                // A process joins the group before it becomes the proxy.
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(group).arg(path_of_program);
                shell
            }
            None => Command::new(path_of_program),
        };
        if program.is_ok() {
            command.args(["--use-dynamic-base-id", "--log-level", "error"]);
        }
        command.args(["--concurrency", "1", "-c"]).arg(&path).args(arguments);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut proxy = Self { child, folder, admin };
        let ready = poll(DEADLINE, || {
            let ended = proxy.child.try_wait().unwrap().is_some();
            (ended || proxy.page("/ready").is_some_and(|page| page.contains("LIVE"))).then_some(!ended)
        });
        assert_eq!(ready, Some(true), "the proxy does not start:\n{}", proxy.log());
        proxy
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Replaces the configuration file by rename.
    pub fn write(&self, config: &Value) {
        let path = self.folder.path().join("next.json");
        std::fs::write(&path, with_admin(config, self.admin)).unwrap();
        std::fs::rename(path, self.folder.path().join("proxy.json")).unwrap();
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Ends the process at once.
    pub fn quit(&self) {
        let Ok(mut stream) = TcpStream::connect(at(self.admin)) else { return };
        let _ = write!(stream, "POST /quitquitquit HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.read(&mut [0; 1024]);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn admin(&self) -> u16 {
        self.admin
    }

    /// A page of the admin port; `None` while nothing listens there.
    pub fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(at(self.admin)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// All counters and gauges.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        let page = self.page("/stats").unwrap_or_default();
        let each = page.lines().filter_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        each.collect()
    }

    /// A counter or gauge, which must be declared: waiting for another name proves nothing.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        *stats.get(name).unwrap_or_else(|| panic!("there is no statistic {name}"))
    }

    /// A statistic that comes with its first event, or goes with what it counts.
    pub fn stat_or_zero(&self, name: &str) -> u64 {
        self.stats().get(name).copied().unwrap_or(0)
    }

    pub fn wait_stat(&self, name: &str, is: impl Fn(u64) -> bool) {
        let found = poll(DEADLINE, || is(self.stat(name)).then_some(()));
        assert!(found.is_some(), "waited in vain for {name}, which is {}", self.stat(name));
    }
}

fn with_admin(config: &Value, port: u16) -> String {
    let admin = json!({ "admin": { "address": address(port) } });
    merged(config.clone(), admin).to_string()
}

/// A folder for access logs.
pub struct Logs(tempfile::TempDir);

impl Logs {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The first line of a log, once it is there.
    pub fn first_line(&self, name: &str) -> String {
        wait(&format!("the log {name}"), || {
            let text = self.read(name);
            text.split_once('\n').map(|(line, _)| line.to_owned())
        })
    }

    pub fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
