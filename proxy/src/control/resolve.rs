//! One look-up of one name: the system's resolver, or DNS servers that the file names.
//!
//! "The name does not exist" is a result without addresses; no response is a failure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

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
    Servers(Box<TokioResolver>),
}

impl Resolver {
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        if settings.servers.is_empty() {
            return Ok(Self::System);
        }
        let servers = settings.servers.iter().map(|server| name_server(*server, settings.tcp_only)).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        let built = builder.with_options(options(settings)).build().map_err(|error| error.to_string())?;
        Ok(Self::Servers(Box::new(built)))
    }

    /// The addresses of a name in the families asked for.
    pub(super) async fn look_up(&self, host: &str, family: Family) -> Result<Resolved, String> {
        match self {
            Self::System => system(host, family).await,
            Self::Servers(resolver) => match family {
                Family::V4Only => ask(resolver, host, RecordType::A).await,
                Family::V6Only => ask(resolver, host, RecordType::AAAA).await,
                Family::Auto => first(resolver, host, [RecordType::AAAA, RecordType::A]).await,
                Family::V4Preferred => first(resolver, host, [RecordType::A, RecordType::AAAA]).await,
                Family::All => both(resolver, host).await,
            },
        }
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

async fn ask(resolver: &TokioResolver, host: &str, record: RecordType) -> Result<Resolved, String> {
    // As it is written: search domains are not used.
    let name = format!("{}.", host.trim_end_matches('.'));
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

async fn first(resolver: &TokioResolver, host: &str, order: [RecordType; 2]) -> Result<Resolved, String> {
    match ask(resolver, host, order[0]).await {
        Ok(found) if !found.ips.is_empty() => Ok(found),
        _ => ask(resolver, host, order[1]).await,
    }
}

async fn both(resolver: &TokioResolver, host: &str) -> Result<Resolved, String> {
    let (v4, v6) = tokio::join!(ask(resolver, host, RecordType::A), ask(resolver, host, RecordType::AAAA));
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.ips.extend(v6.ips);
            v4.ttl = v4.ttl.into_iter().chain(v6.ttl).min();
            Ok(v4)
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.ips.is_empty() => Ok(one),
        (Err(problem), _) | (_, Err(problem)) => Err(problem),
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
