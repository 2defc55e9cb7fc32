//! Two proxies with the same configurations, and what an exchange looks like through each.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use regex::Regex;
use serde::Serialize;

use crate::case::Exchange;
use crate::client;
use crate::configuration::{self, Addresses, Configuration};
use crate::upstream::Upstream;
use crate::wire::Message;

/// Both programs.
#[derive(Debug)]
pub struct Programs {
    envoy: PathBuf,
    petmesh: PathBuf,
    /// What `envoy` became, if it is a script that starts the real one: the script costs more than Envoy.
    real: OnceLock<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Envoy,
    Petmesh,
}

/// What a client and the upstream saw of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observation {
    pub responses: Vec<Message>,
    /// What came instead of the responses that are missing.
    pub end: String,
    pub upstream: Vec<Message>,
}

/// How long the administration takes at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the configurations' files are called.
const FILES: [&str; 3] = ["text", "one", "other"];
/// The time between two looks at an upstream to which nothing comes.
const LOOK: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_secs(20);

/// One proxy with some configurations.
#[derive(Debug)]
pub struct Proxy {
    side: Side,
    child: Child,
    admin: u16,
    folder: tempfile::TempDir,
    pub lanes: Vec<Lane>,
}

/// One configuration on one side.
#[derive(Debug)]
pub struct Lane {
    pub number: usize,
    pub addresses: Addresses,
    upstream: Upstream,
    /// Exchanges without an end so far.
    hung: AtomicU32,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lanes.iter().for_each(|lane| lane.upstream.stop());
    }
}

/// A port below those that the kernel gives to clients, and never the same twice in a row.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let place = std::process::id().wrapping_mul(977).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(12_000 + place % 19_000).unwrap_or(12_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Lanes with addresses for the configurations of these numbers.
fn lanes(numbers: &[usize], folder: &Path) -> anyhow::Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for &number in numbers {
        let (listener, refusing) = (free_port(), free_port());
        let upstream = Upstream::start()?;
        let folder = folder.join(number.to_string());
        std::fs::create_dir_all(&folder)?;
        for file in FILES {
            std::fs::write(folder.join(file), "a text")?;
        }
        let addresses = Addresses { listener, upstream: upstream.port, refusing, folder };
        lanes.push(Lane { number, addresses, upstream, hung: AtomicU32::new(0) });
    }
    Ok(lanes)
}

impl Programs {
    pub fn new(envoy: PathBuf, petmesh: PathBuf) -> Self {
        Self { envoy, petmesh, real: OnceLock::new() }
    }

    fn command(&self, side: Side, file: &Path) -> Command {
        let mut command = Command::new(match side {
            Side::Envoy => self.real.get().unwrap_or(&self.envoy),
            Side::Petmesh => &self.petmesh,
        });
        if side == Side::Envoy {
            command.args(["--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "error"]);
            command.args(["--file-flush-interval-msec", "10"]);
        }
        command.args(["--concurrency", "1", "-c"]).arg(file).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Whether this side takes the configuration, and its error if not.
    pub fn accepts(
        &self,
        side: Side,
        configurations: &[&Configuration],
    ) -> anyhow::Result<Result<(), String>> {
        let folder = tempfile::tempdir()?;
        let numbers: Vec<usize> = (0..configurations.len()).collect();
        let lanes = lanes(&numbers, folder.path())?;
        let file = write(folder.path(), &lanes, configurations, free_port())?;
        lanes.iter().for_each(|lane| lane.upstream.stop());
        let output =
            self.command(side, &file).args(["--mode", "validate"]).stderr(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Ok(()) } else { Err(text) })
    }

    /// Starts one side.
    pub fn start(&self, side: Side, numbered: &[(usize, &Configuration)]) -> anyhow::Result<Proxy> {
        let folder = tempfile::tempdir()?;
        let numbers: Vec<usize> = numbered.iter().map(|(number, _)| *number).collect();
        let configurations: Vec<&Configuration> =
            numbered.iter().map(|(_, configuration)| *configuration).collect();
        let lanes = lanes(&numbers, folder.path())?;
        let admin = free_port();
        let file = write(folder.path(), &lanes, &configurations, admin)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = self
            .command(side, &file)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{side:?} does not start"))?;
        let mut proxy = Proxy { side, child, admin, folder, lanes };
        let until = Instant::now() + START;
        loop {
            if proxy.page("/ready").is_ok_and(|page| page.contains("LIVE")) {
                self.note_real(&proxy);
                return Ok(proxy);
            }
            if proxy.child.try_wait()?.is_some() || Instant::now() > until {
                bail!("{side:?} does not become ready: {}", proxy.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Programs {
    fn note_real(&self, proxy: &Proxy) {
        let real = std::fs::read_link(format!("/proc/{}/exe", proxy.child.id()));
        let is_envoy = |path: &PathBuf| path.file_name().is_some_and(|name| name == "envoy");
        if proxy.side == Side::Envoy
            && let Some(real) = real.ok().filter(is_envoy)
        {
            let _ = self.real.set(real);
        }
    }
}

fn write(
    folder: &Path,
    lanes: &[Lane],
    configurations: &[&Configuration],
    admin: u16,
) -> anyhow::Result<PathBuf> {
    let file = folder.join("proxy.json");
    if let [configuration] = configurations
        && configuration.file.is_some()
    {
        std::fs::write(&file, configuration.tree()?.to_string())?;
        return Ok(file);
    }
    let parts: anyhow::Result<Vec<_>> = lanes
        .iter()
        .zip(configurations)
        .map(|(lane, configuration)| configuration.part(lane.number, &lane.addresses))
        .collect();
    std::fs::write(&file, configuration::bootstrap(parts?, admin).to_string())?;
    Ok(file)
}

impl Proxy {
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn page(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.admin))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    }

    /// Counters and gauges that have a value, once they no longer move.
    pub fn statistics(&self) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
        let read = || -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
            let page = self.page("/stats")?;
            let each = page.lines().filter_map(|line| {
                let (name, value) = line.trim().split_once(": ")?;
                Some((name.to_owned(), value.parse().ok()?))
            });
            Ok(each.collect())
        };
        let moves = |name: &str| name.contains("-") || name.starts_with("listener.127");
        let mut before = read()?;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(30));
            let now = read()?;
            let same = |name: &String| !moves(name) || before.get(name) == now.get(name);
            if now.keys().all(same) {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    /// The lines of a configuration's access log so far.
    pub fn log_lines(&self, lane: usize) -> Vec<String> {
        let Some(lane) = self.lanes.get(lane) else { return Vec::new() };
        let text = std::fs::read_to_string(lane.addresses.folder.join("judge.log")).unwrap_or_default();
        text.lines().map(|line| without_chance(&lane.without_ports(line))).collect()
    }

    /// Runs one exchange over a configuration.
    pub fn run(&self, lane: usize, exchange: &Exchange) -> Observation {
        let Some(lane) = self.lanes.get(lane) else { return Observation::default() };
        lane.upstream.begin(&exchange.upstream);
        let mut seen = Observation::default();
        (seen.responses, seen.end) =
            client::run(lane.addresses.listener, exchange, &lane.upstream, &lane.hung);
        self.look(lane, &mut seen);
        seen
    }

    /// Looks again at what the upstream has got of the exchange that ran last.
    pub fn look_again(&self, lane: usize, seen: &mut Observation) {
        let Some(lane) = self.lanes.get(lane) else { return };
        lane.upstream.has_changed(LOOK);
        self.look(lane, seen);
    }

    fn look(&self, lane: &Lane, seen: &mut Observation) {
        seen.upstream = lane.upstream.seen();
        own_words(lane, seen);
    }
}

/// What differs from side to side by its nature becomes a word.
fn own_words(lane: &Lane, seen: &mut Observation) {
    for message in seen.responses.iter_mut().chain(&mut seen.upstream) {
        let headers = std::mem::take(&mut message.headers);
        message.headers = headers.iter().map(|line| stable(&lane.without_ports(line))).collect();
        message.body = without_chance(&lane.without_ports(&message.body));
        message.line = without_chance(&lane.without_ports(&message.line));
    }
    // How much of a request came before it broke off depends on time, even whether any of it came.
    seen.upstream.retain(|message| !message.framing.ends_with(", closed"));
    // What is left for a later attempt depends on time.
    const LEFT: &str = "x-envoy-expected-rq-timeout-ms: ";
    for line in seen.upstream.iter_mut().skip(1).flat_map(|message| &mut message.headers) {
        if line.starts_with(LEFT) {
            *line = format!("{LEFT}N");
        }
    }
}

impl Lane {
    /// Ports and folders by name.
    pub fn without_ports(&self, text: &str) -> String {
        let Addresses { listener, upstream, refusing, folder } = &self.addresses;
        let mut text = text.to_owned();
        for (port, name) in [(listener, "LISTENER"), (upstream, "UPSTREAM"), (refusing, "REFUSING")] {
            text = with_number_named(&text, &port.to_string(), name);
        }
        text.replace(&folder.display().to_string(), "/folder")
    }
}

/// A text with a number by its name, where the number is not a part of a longer word.
fn with_number_named(text: &str, number: &str, name: &str) -> String {
    let mut named = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(number) {
        let (before, after) = rest.split_at(at);
        let after = after.strip_prefix(number).unwrap_or_default();
        let alone = !before.ends_with(|c: char| c.is_ascii_alphanumeric())
            && !after.starts_with(|c: char| c.is_ascii_alphanumeric());
        named.push_str(before);
        named.push_str(if alone { name } else { number });
        rest = after;
    }
    named + rest
}

/// The machine's address on its network, if it has one. Nothing is sent.
fn own_address() -> Option<&'static str> {
    static OWN: LazyLock<Option<String>> = LazyLock::new(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    });
    OWN.as_deref()
}

/// A header line without what depends on time or chance.
fn stable(line: &str) -> String {
    let Some((name, value)) = line.split_once(": ") else { return line.to_owned() };
    if name == "x-forwarded-for" {
        // The address of a client of the same machine: Envoy names the machine's own.
        let own = |item: &str| item == "127.0.0.1" || own_address() == Some(item);
        let named = value.split(',').map(|item| if own(item) { "SELF" } else { item });
        return format!("x-forwarded-for: {}", named.collect::<Vec<_>>().join(","));
    }
    match name {
        "date" if value.ends_with(" GMT") && !value.contains("1970") => "date: NOW".to_owned(),
        "x-envoy-upstream-service-time" => "x-envoy-upstream-service-time: N".to_owned(),
        _ => without_chance(line),
    }
}

/// A text without the request identifiers that proxies make up. Clients send one that begins with zeroes.
pub fn without_chance(text: &str) -> String {
    static UUID: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").ok());
    static COOKIE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("=\"[0-9a-f]{16}\"").ok());
    let own = |found: &regex::Captures<'_>| {
        let found = &found[0];
        if found.starts_with("00000000-") { found.to_owned() } else { "UUID".to_owned() }
    };
    let text = match UUID.as_ref() {
        Some(uuid) if text.len() >= 36 => uuid.replace_all(text, own),
        _ => text.into(),
    };
    // A cookie that a hash policy makes is the hash of the client's address and port.
    match COOKIE.as_ref() {
        Some(cookie) => cookie.replace_all(&text, "=\"HASH\"").into_owned(),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 9] = [
        "date: Sun, 29 Nov 2026 03:00:00 GMT",
        "date: Thu, 01 Jan 1970 00:00:00 GMT",
        "x-envoy-upstream-service-time: 17",
        "x-request-id: 2f734bf5-e41f-4bda-a6d2-7fb90c99473d",
        "x-request-id: 00000000-0000-4000-8000-000000000000",
        "a: 2f734bf5-e41f-4bda-a6d2-7fb90c99473d",
        "x-forwarded-for: 10.0.0.1,127.0.0.1",
        "no colon",
        "set-cookie: a=\"13b1985b0a29043a\"; Max-Age=9",
    ];

    #[test]
    fn what_depends_on_time_or_chance_becomes_a_word() {
        assert_eq!(
            LINES.map(stable),
            [
                "date: NOW",
                "date: Thu, 01 Jan 1970 00:00:00 GMT",
                "x-envoy-upstream-service-time: N",
                "x-request-id: UUID",
                "x-request-id: 00000000-0000-4000-8000-000000000000",
                "a: UUID",
                "x-forwarded-for: 10.0.0.1,SELF",
                "no colon",
                "set-cookie: a=\"HASH\"; Max-Age=9",
            ]
        );
        for line in LINES {
            let once = stable(line);
            assert_eq!(stable(&once), once, "a second time changes nothing");
        }
    }

    #[test]
    fn a_port_has_a_name_where_it_is_no_part_of_a_word() {
        let named = |text| with_number_named(text, "12345", "LISTENER");
        assert_eq!(named("host: here:12345"), "host: here:LISTENER");
        assert_eq!(named("127.0.0.1:12345, 12345"), "127.0.0.1:LISTENER, LISTENER");
        for text in ["0123456789", "a12345", "123456", "012345", ""] {
            assert_eq!(named(text), text);
        }
    }
}
