//! Settings: flag over variable over file over what a pod in a cluster finds by itself.
//!
//! The file is the tutorial's: YAML (so JSON too), nested or with dotted keys. The variables are its keys in upper case, as
//! Spring would bind them. Every error names where the value came from, the key and the remedy.

mod file;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use http::Uri;
use tokio::time::Duration;

use crate::translate::Rules;
use read::{Given, Key, Sources};

/// What the process was asked to be, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub listen: SocketAddr,
    /// How slices become endpoints.
    pub rules: Rules,
    /// How long endpoints are kept that are no longer ready when none of their Service is.
    pub fail_static: Duration,
    pub kubernetes: Kubernetes,
}

/// Which API server, as whom, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `http` or `https`, host, port.
    pub api_host: Uri,
    /// The namespace of names without one, and the only one that is watched unless `all_namespaces`.
    pub namespace: String,
    pub all_namespaces: bool,
    /// Without one, requests carry no token.
    pub token_path: Option<PathBuf>,
    /// Certificates to trust, as PEM. Without one: those of the operating system.
    pub ca_path: Option<PathBuf>,
}

/// Answers "where are the pods of this service?" to proxies, from Kubernetes' EndpointSlices.
///
/// Each setting is a flag, else a variable, else a key of the settings file, else what a pod finds in its cluster.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "sds", version, after_help = AFTER_HELP)]
pub struct Flags {
    /// Settings file, YAML [variable: CONFIG_PATH]
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Address of REST discovery and health; [::] takes IPv4 too [variable: LISTEN_ADDR; key: listen; default: [::]:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Namespace of names without one, and the one watched [KUBERNETES_NAMESPACE; kubernetes.namespace; the pod's own]
    #[arg(long, value_name = "NAME")]
    pub kubernetes_namespace: Option<String>,
    /// Watch all namespaces (needs a ClusterRole) [KUBERNETES_ALL_NAMESPACES; kubernetes.all-namespaces; false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub kubernetes_all_namespaces: Option<String>,
    /// URL of the API server [KUBERNETES_API_HOST; kubernetes.api.host; https://$KUBERNETES_SERVICE_HOST]
    #[arg(long, value_name = "URL")]
    pub kubernetes_api_host: Option<String>,
    /// File with the bearer token [KUBERNETES_TOKEN_PATH; kubernetes.token.path; the service account's]
    #[arg(long, value_name = "FILE")]
    pub kubernetes_token_path: Option<String>,
    /// File with the API server's certificate authority [KUBERNETES_CA_PATH; kubernetes.ca.path; ca.crt beside the token]
    #[arg(long, value_name = "FILE")]
    pub kubernetes_ca_path: Option<String>,
    /// Port of every sidecar, given out instead of the pod's own [ENVOY_PORT; envoy.port; 10000]
    #[arg(long, value_name = "PORT")]
    pub envoy_port: Option<String>,
    /// Addresses to give out: auto, ipv4 or ipv6; auto: a Service's IPv4 addresses if it has them [ADDRESS_FAMILY; address-family; auto]
    #[arg(long, value_name = "FAMILY")]
    pub address_family: Option<String>,
    /// When no pod of a Service is ready any more, serve those on that were so in the last N seconds; 0: never [FAIL_STATIC_TIME_S; fail-static-time-s; 300]
    #[arg(long, value_name = "N")]
    pub fail_static_time_s: Option<String>,
}

const AFTER_HELP: &str = "In brackets: variable; key of the settings file; default. Logs: LOG_FORMAT=text|json, RUST_LOG.
A value of ENVOY_PORT such as tcp://10.0.0.1:10000 is ignored: Kubernetes sets it beside a Service named envoy.
Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// What surrounds the process. Tests bring their own.
pub struct Surroundings<'a> {
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Where a pod finds `token`, `ca.crt` and `namespace`.
    pub service_account: PathBuf,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    text: String,
    usage: bool,
}

impl Settings {
    /// Gathers the settings and checks them. Reads the settings file and looks for the service account's files.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn settle(flags: &Flags, around: &Surroundings<'_>) -> Result<Self, SettingsError> {
        let sources = Sources::gather(flags, around)?;
        let default = |text: &str| Given::default(text);
        Ok(Self {
            listen: sources.get(Key::Listen).unwrap_or_else(|| default("[::]:8080")).address()?,
            rules: Rules {
                envoy_port: sources.get(Key::EnvoyPort).unwrap_or_else(|| default("10000")).port()?,
                family: sources.get(Key::AddressFamily).unwrap_or_else(|| default("auto")).family()?,
            },
            fail_static: sources.get(Key::FailStatic).unwrap_or_else(|| default("300")).seconds()?,
            kubernetes: Kubernetes::settle(&sources, around)?,
        })
    }
}

impl Kubernetes {
    fn settle(sources: &Sources, around: &Surroundings<'_>) -> Result<Self, SettingsError> {
        let account = |name: &str| Some(around.service_account.join(name)).filter(|path| path.is_file());
        let api_host = match sources.get(Key::ApiHost) {
            Some(given) => given.url()?,
            None => in_cluster(around)?.url()?,
        };
        let namespace = match sources.get(Key::Namespace) {
            Some(given) => given.label()?,
            None => match account("namespace").and_then(|path| std::fs::read_to_string(path).ok()) {
                Some(text) => Given::default(text.trim()).label()?,
                None => "default".to_owned(),
            },
        };
        let token_path = match sources.get(Key::TokenPath) {
            Some(given) => Some(given.file()?),
            None => account("token"),
        };
        let ca_path = match sources.get(Key::CaPath) {
            Some(given) => Some(given.file()?),
            None => token_path
                .as_ref()
                .map(|token| token.with_file_name("ca.crt"))
                .filter(|path| path.is_file())
                .or_else(|| account("ca.crt")),
        };
        let all_namespaces = sources.get(Key::AllNamespaces).map_or(Ok(false), |given| given.boolean())?;
        Ok(Self { api_host, namespace, all_namespaces, token_path, ca_path })
    }
}

impl fmt::Display for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api_host, namespace, .. } = self;
        match self.all_namespaces {
            true => write!(f, "EndpointSlices of all namespaces at {api_host}, own namespace {namespace}"),
            false => write!(f, "EndpointSlices of namespace {namespace} at {api_host}"),
        }
    }
}

impl Surroundings<'static> {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
            service_account: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
        }
    }
}

impl SettingsError {
    /// A flag is wrong, rather than a variable or file.
    pub fn is_usage(&self) -> bool {
        self.usage
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SettingsError {}

fn in_cluster(around: &Surroundings<'_>) -> Result<Given, SettingsError> {
    let variable = |name| (around.variable)(name).filter(|value| !value.is_empty());
    let Some(host) = variable("KUBERNETES_SERVICE_HOST") else {
        let text = "no API server to ask: this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set), so name one \
                    with --kubernetes-api-host, KUBERNETES_API_HOST or `kubernetes.api.host` in the settings file";
        return Err(SettingsError { text: text.to_owned(), usage: false });
    };
    let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(Given::default(&format!("https://{host}:{port}")))
}
