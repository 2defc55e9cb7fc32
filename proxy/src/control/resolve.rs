//! One look-up of one name: the system's resolver, or DNS servers that the file or `/etc/resolv.conf` names.
//!
//! "The name does not exist" is a result without addresses; no response is a failure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, Resolver as Hickory, TokioResolver};

use crate::build::discovery::Family;
use crate::build::resolver::Resolver as Settings;

/// The addresses of a name, in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    pub ips: Vec<IpAddr>,
    /// How long the records are valid; `None` if they do not say.
    pub ttl: Option<Duration>,
}

/// Looks names up.
pub(super) enum Resolver {
    System,
    Servers(Box<Servers>),
}

/// DNS servers, and what a name without a dot at its end may stand for.
pub(super) struct Servers {
    resolver: TokioResolver,
    search: Vec<String>,
    /// A name with fewer dots is first looked up below the search domains.
    ndots: usize,
    hosts: Hosts,
}

impl Resolver {
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        if *settings == Settings::default() {
            return Ok(Self::System);
        }
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Servers::new(settings, SystemDns::parse(&text)).map(|servers| Self::Servers(Box::new(servers)))
    }

    /// The addresses of a name in the families asked for.
    pub(super) async fn look_up(&self, host: &str, family: Family) -> Result<Resolved, String> {
        match self {
            Self::System => system(host, family).await,
            Self::Servers(servers) => servers.look_up(host, family).await,
        }
    }
}

impl Servers {
    fn new(settings: &Settings, system: SystemDns) -> Result<Self, String> {
        let servers = if settings.servers.is_empty() { &system.servers } else { &settings.servers };
        let servers = servers.iter().map(|server| name_server(*server, settings.tcp_only)).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options(settings)).build().map_err(|error| error.to_string())?;
        let search = if settings.no_search { Vec::new() } else { system.search };
        let hosts = Hosts::from_system().unwrap_or_default();
        Ok(Self { resolver, search, ndots: system.ndots, hosts })
    }

    async fn look_up(&self, host: &str, family: Family) -> Result<Resolved, String> {
        match family {
            Family::V4Only => self.ask(host, RecordType::A).await,
            Family::V6Only => self.ask(host, RecordType::AAAA).await,
            Family::Auto => self.first(host, [RecordType::AAAA, RecordType::A]).await,
            Family::V4Preferred => self.first(host, [RecordType::A, RecordType::AAAA]).await,
            Family::All => {
                let (v4, v6) = tokio::join!(self.ask(host, RecordType::A), self.ask(host, RecordType::AAAA));
                together(v4, v6)
            }
        }
    }

    async fn first(&self, host: &str, order: [RecordType; 2]) -> Result<Resolved, String> {
        match self.ask(host, order[0]).await {
            Ok(found) if !found.ips.is_empty() => Ok(found),
            none => together(none, self.ask(host, order[1]).await),
        }
    }

    /// The first name with addresses. A failure ends the search: what follows would hide it.
    async fn ask(&self, host: &str, record: RecordType) -> Result<Resolved, String> {
        for name in self.names(host, record) {
            let found = ask(&self.resolver, name, record).await?;
            if !found.ips.is_empty() {
                return Ok(found);
            }
        }
        Ok(Resolved::default())
    }

    /// What a name may stand for, in order.
    fn names(&self, host: &str, record: RecordType) -> Vec<String> {
        let whole = format!("{}.", host.trim_end_matches('.'));
        let known = |name: &Name| {
            name.is_localhost()
                || self.hosts.lookup_static_host(&Query::query(name.clone(), record)).is_some()
        };
        if host.ends_with('.') || Name::from_ascii(&whole).is_ok_and(|name| known(&name)) {
            return vec![whole];
        }
        let mut names: Vec<_> = self.search.iter().map(|domain| format!("{whole}{domain}.")).collect();
        let whole_first = host.matches('.').count() >= self.ndots;
        names.insert(if whole_first { 0 } else { names.len() }, whole);
        names
    }
}

/// One of two families is enough. A failure is not "no addresses": the other may have had them.
fn together(one: Result<Resolved, String>, other: Result<Resolved, String>) -> Result<Resolved, String> {
    match (one, other) {
        (Ok(mut one), Ok(other)) => {
            one.ips.extend(other.ips);
            one.ttl = one.ttl.into_iter().chain(other.ttl).min();
            Ok(one)
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.ips.is_empty() => Ok(one),
        (Err(problem), _) | (_, Err(problem)) => Err(problem),
    }
}

/// The system's DNS servers and search domains, as resolv.conf(5) describes them.
#[derive(Debug, PartialEq)]
struct SystemDns {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl SystemDns {
    fn parse(text: &str) -> Self {
        const MOST_SERVERS: usize = 3;
        const MOST_DOMAINS: usize = 32;
        const MOST_DOTS: usize = 15;
        let mut found = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if found.servers.len() < MOST_SERVERS => {
                    let ip: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    found.servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                // The last of these lines counts.
                Some("search" | "domain") => {
                    let domains = words.map(|domain| domain.trim_end_matches('.').to_owned());
                    found.search = domains.filter(|name| !name.is_empty()).take(MOST_DOMAINS).collect();
                }
                Some("options") => {
                    let mut dots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse::<usize>().ok());
                    found.ndots = dots.next_back().map_or(found.ndots, |dots| dots.min(MOST_DOTS));
                }
                _ => {}
            }
        }
        if found.servers.is_empty() {
            found.servers.push(([127, 0, 0, 1], 53).into());
        }
        found
    }
}

fn name_server(server: SocketAddr, tcp_only: bool) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::tcp()];
    if !tcp_only {
        connections.insert(0, ConnectionConfig::udp());
    }
    for connection in &mut connections {
        connection.port = server.port();
    }
    NameServerConfig::new(server.ip(), true, connections)
}

fn options(settings: &Settings) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = settings.timeout.unwrap_or(Duration::from_secs(5));
    options.attempts = settings.attempts.map_or(4, |attempts| attempts as usize).saturating_sub(1);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options
}

async fn ask(resolver: &TokioResolver, name: String, record: RecordType) -> Result<Resolved, String> {
    match resolver.lookup(name, record).await {
        Ok(found) => {
            let records = found.answers();
            let ips = records.iter().filter_map(|record| match &record.data {
                RData::A(ip) => Some(IpAddr::V4(ip.0)),
                RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
                _ => None,
            });
            let ttl = records.iter().map(|record| record.ttl).min();
            Ok(Resolved { ips: ips.collect(), ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())) })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            Ok(Resolved::default())
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn system(host: &str, family: Family) -> Result<Resolved, String> {
    let found = match tokio::net::lookup_host((host, 0)).await {
        Ok(found) => found.map(|address| address.ip()).collect::<Vec<_>>(),
        Err(error) if says_unknown(&error) => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    let (v4, v6): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv4);
    let ips = match family {
        Family::V4Only => v4,
        Family::V6Only => v6,
        Family::Auto if !v6.is_empty() => v6,
        Family::Auto => v4,
        Family::V4Preferred if !v4.is_empty() => v4,
        Family::V4Preferred => v6,
        Family::All => v4.into_iter().chain(v6).collect(),
    };
    Ok(Resolved { ips, ttl: None })
}

/// getaddrinfo has no error kinds in std, only the C library's words for EAI_NONAME and EAI_NODATA.
fn says_unknown(error: &std::io::Error) -> bool {
    let text = error.to_string();
    ["Name or service not known", "Name does not resolve", "nodename nor servname", "No address associated"]
        .iter()
        .any(|words| text.contains(words))
}

#[cfg(test)]
#[path = "../../tests/unit/resolve.rs"]
mod tests;
