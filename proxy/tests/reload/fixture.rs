//! The proxy as a process, a file that is changed under it, and an upstream that can hold its
//! response.

pub use super::ports::free_port;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What is waited for comes long before this, or never.
const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again until there is a response.
pub fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(response) = ask() {
            return response;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A client's connection, which stays open.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn new(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn send(&mut self, path: &str) -> std::io::Result<()> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nhost: here\r\n\r\n")
    }

    /// Status, the lines of the head in small letters, body.
    pub fn respond(&mut self) -> std::io::Result<(u16, String, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = Vec::new();
        if let Some(length) = length {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body)?;
        } else if head.contains("transfer-encoding: chunked") {
            self.chunks(&mut body)?;
        }
        Ok((status, head, String::from_utf8(body).unwrap()))
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.0.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(());
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    pub fn get(&mut self, path: &str) -> std::io::Result<(u16, String, String)> {
        self.send(path)?;
        self.respond()
    }

    pub fn post(&mut self, path: &str) -> std::io::Result<(u16, String, String)> {
        write!(self.0.get_mut(), "POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n")?;
        self.respond()
    }

    /// Whether the other side has ended the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.get_mut().read(&mut [0]), Ok(0))
    }
}

/// Responds 200; 500 for `/fail`; `/hold` when the test says so.
pub struct Upstream {
    pub port: u16,
    released: Arc<(Mutex<bool>, Condvar)>,
}

impl Upstream {
    pub fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let released = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&released);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let released = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &released));
            }
        });
        Self { port, released }
    }

    pub fn release(&self) {
        *self.released.0.lock().unwrap() = true;
        self.released.1.notify_all();
    }
}

fn serve(stream: TcpStream, released: &(Mutex<bool>, Condvar)) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !reader.read_line(&mut head).is_ok_and(|read| read > 0) {
                return;
            }
        }
        if head.starts_with("GET /hold") {
            let free = released.0.lock().unwrap();
            drop(released.1.wait_while(free, |free| !*free).unwrap());
        }
        let status = if head.starts_with("GET /fail") { "500 No" } else { "200 OK" };
        if write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

/// The proxy with a file of the test's own, and two workers.
pub struct Process {
    child: Child,
    pub folder: tempfile::TempDir,
    pub admin: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts with these listeners, in YAML's flow style, and waits until it is ready.
    pub fn start(drain_time: u32, listeners: &[String], upstream: u16) -> Self {
        let process = Self::launch(drain_time, listeners, upstream);
        process.wait_ready();
        process
    }

    pub fn wait_ready(&self) {
        let ready = || Client::new(self.admin).ok()?.get("/ready").ok().filter(|(status, ..)| *status == 200);
        wait("the first configuration", ready);
    }

    /// Starts, and does not wait. Permissions count for the process: it does not run as root.
    pub fn launch(drain_time: u32, listeners: &[String], upstream: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let admin = free_port();
        let path = folder.path().join("proxy.yaml");
        std::fs::write(&path, own_file(admin, listeners, upstream)).unwrap();
        let mut command = unprivileged(env!("CARGO_BIN_EXE_proxy"), folder.path());
        let child = command
            .args(["--concurrency", "2", "--drain-time-s", &drain_time.to_string(), "-c"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder, admin }
    }

    /// Gives the file other listeners.
    pub fn write(&self, listeners: &[String], upstream: u16) {
        self.write_with_mode(listeners, upstream, 0o644);
    }

    pub fn write_with_mode(&self, listeners: &[String], upstream: u16, mode: u32) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, own_file(self.admin, listeners, upstream)).unwrap();
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(next, self.folder.path().join("proxy.yaml")).unwrap();
    }

    pub fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub fn page(&self, path: &str) -> String {
        Client::new(self.admin).unwrap().get(path).unwrap().2
    }

    pub fn stat(&self, name: &str) -> u64 {
        let start = format!("{name}: ");
        let page = self.page("/stats");
        let value = page.lines().find_map(|line| line.strip_prefix(&start));
        value.unwrap_or_else(|| panic!("there is no statistic {name}")).parse().unwrap()
    }

    /// A statistic that comes with its first event, or goes with what it counts.
    pub fn stat_or_zero(&self, name: &str) -> u64 {
        let start = format!("{name}: ");
        let page = self.page("/stats");
        page.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |value| value.parse().unwrap())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// A program that runs as nobody where the test runs as root, from a folder that nobody can read.
fn unprivileged(program: &str, folder: &Path) -> Command {
    const NOBODY: u32 = 65_534;
    if folder.metadata().unwrap().uid() != 0 {
        return Command::new(program);
    }
    let copy = folder.join("program");
    if std::fs::hard_link(program, &copy).is_err() {
        std::fs::copy(program, &copy).unwrap();
    }
    std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command
}

fn own_file(admin: u16, listeners: &[String], upstream: u16) -> String {
    format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}\nlayered_runtime: {{ layers: [{{ name: admin, admin_layer: {{}} }}] }}\nstatic_resources:\n  listeners: [{}]\n  \
         clusters:\n  - {{ name: one, load_assignment: {{ cluster_name: one, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: \
         {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }} }}] }}] }} }}\n",
        listeners.join(", ")
    )
}

/// A listener; `chains` are its filter chains and its other fields.
pub fn listener(name: &str, address: &str, port: u16, chains: &str) -> String {
    format!(
        "{{ name: {name}, address: {{ socket_address: {{ address: {address}, port_value: {port} }} }}, {chains} }}"
    )
}

/// The filters of a chain that does this with every request.
pub fn http(name: &str, action: &str) -> String {
    format!(
        "filters: [{{ name: http, typed_config: {{ \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: {name}, route_config: {{ virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ \
         match: {{ prefix: / }}, {action} }}] }}] }}, http_filters: [{{ name: router, typed_config: {{ \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }} }}]"
    )
}

/// The filters of a chain that sends back what comes.
pub const ECHO: &str = "filters: [{ name: echo, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } }]";

/// How the file is changed.
#[derive(Clone, Copy)]
pub enum Swap {
    /// Another file takes its name.
    Rename,
    /// The symlink `..data` comes to name another folder, as a ConfigMap's does.
    Symlink,
}

/// The proxy with one worker. Listener `one` leads to cluster `one`; listener `marker` responds
/// with the number of the file.
pub struct Proxy {
    child: Child,
    folder: tempfile::TempDir,
    swap: Swap,
    written: u32,
    pub one: u16,
    marker: u16,
    admin: u16,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts with a file that has these words more in cluster `one`.
    pub fn start(swap: Swap, upstream: &Upstream, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let (one, marker, admin) = (free_port(), free_port(), free_port());
        let text = file(1, [one, marker, admin], upstream.port, more, true);
        std::fs::create_dir(folder.path().join("..1")).unwrap();
        std::fs::write(folder.path().join("..1/proxy.yaml"), &text).unwrap();
        let path = folder.path().join("proxy.yaml");
        match swap {
            Swap::Rename => std::fs::write(&path, &text).unwrap(),
            Swap::Symlink => {
                std::os::unix::fs::symlink("..1", folder.path().join("..data")).unwrap();
                std::os::unix::fs::symlink("..data/proxy.yaml", &path).unwrap();
            }
        }
        let child = Command::new(env!("CARGO_BIN_EXE_proxy"))
            .args(["--concurrency", "1", "-c"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let proxy = Self { child, folder, swap, written: 1, one, marker, admin };
        proxy.serves(1);
        proxy
    }

    /// Changes the file and waits until the worker uses it.
    pub fn reload(&mut self, upstream: &Upstream, more: &str, listener: bool) {
        let number = self.written + 1;
        let text = file(number, [self.one, self.marker, self.admin], upstream.port, more, listener);
        self.write(&text);
        self.serves(number);
    }

    pub fn write(&mut self, text: &str) {
        self.written += 1;
        let at = |name: &str| -> PathBuf { self.folder.path().join(name) };
        match self.swap {
            Swap::Rename => {
                std::fs::write(at("next"), text).unwrap();
                std::fs::rename(at("next"), at("proxy.yaml")).unwrap();
            }
            Swap::Symlink => {
                let name = format!("..{}", self.written);
                std::fs::create_dir(at(&name)).unwrap();
                std::fs::write(at(&name).join("proxy.yaml"), text).unwrap();
                std::os::unix::fs::symlink(&name, at("..tmp")).unwrap();
                std::fs::rename(at("..tmp"), at("..data")).unwrap();
            }
        }
    }

    /// Waits for the file of this number.
    pub fn serves(&self, number: u32) {
        wait("the file", || {
            let (_, _, body) = Client::new(self.marker).ok()?.get("/").ok()?;
            (body == format!("file {number}")).then_some(())
        });
    }

    pub fn page(&self, path: &str) -> String {
        Client::new(self.admin).unwrap().get(path).unwrap().2
    }

    /// A counter or gauge, which must be declared: waiting for another name proves nothing.
    pub fn stat(&self, name: &str) -> u64 {
        let start = format!("{name}: ");
        let page = self.page("/stats");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("there is no statistic {name}")).parse().unwrap()
    }

    /// A statistic that comes with its first event, or goes with what it counts.
    pub fn stat_or_zero(&self, name: &str) -> u64 {
        let start = format!("{name}: ");
        let page = self.page("/stats");
        page.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |value| value.parse().unwrap())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// The file of a number, which also changes cluster `other`.
fn file(number: u32, ports: [u16; 3], upstream: u16, more: &str, listener: bool) -> String {
    let [one, marker, admin] = ports;
    let mut text = format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}\nstatic_resources:\n  listeners:\n"
    );
    let direct = format!("direct_response: {{ status: 200, body: {{ inline_string: file {number} }} }}");
    let lead = "route: { cluster: one, timeout: 60s }".to_owned();
    for (name, port, action) in [("one", one, lead), ("marker", marker, direct)] {
        if name == "marker" || listener {
            let _ = writeln!(
                text,
                "  - {{ name: {name}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}, filter_chains: [{{ filters: [{{ \
                 name: http, typed_config: {{ \
                 \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
                 stat_prefix: {name}, route_config: {{ virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ \
                 match: {{ prefix: / }}, {action} }}] }}] }}, http_filters: [{{ name: router, typed_config: {{ \
                 \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }} }}] }}] }}"
            );
        }
    }
    text.push_str("  clusters:\n");
    for (name, more) in [("one", more.to_owned()), ("other", format!("connect_timeout: {number}s,"))] {
        let _ = writeln!(
            text,
            "  - {{ name: {name}, {more} load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ \
             address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }} }}] }}] }} }}"
        );
    }
    text
}
