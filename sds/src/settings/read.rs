//! Where a setting comes from, and how its text becomes a value.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use http::Uri;
use tokio::time::Duration;

use crate::translate::Family;

use super::{Flags, SettingsError, Surroundings, file};

/// Everything that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Listen,
    Namespace,
    AllNamespaces,
    ApiHost,
    TokenPath,
    CaPath,
    EnvoyPort,
    AddressFamily,
    FailStatic,
}

/// Key of the file, variable, flag.
pub(super) const KEYS: [(Key, &str, &str, &str); 9] = [
    (Key::Listen, "listen", "LISTEN_ADDR", "--listen"),
    (Key::Namespace, "kubernetes.namespace", "KUBERNETES_NAMESPACE", "--kubernetes-namespace"),
    (
        Key::AllNamespaces,
        "kubernetes.all-namespaces",
        "KUBERNETES_ALL_NAMESPACES",
        "--kubernetes-all-namespaces",
    ),
    (Key::ApiHost, "kubernetes.api.host", "KUBERNETES_API_HOST", "--kubernetes-api-host"),
    (Key::TokenPath, "kubernetes.token.path", "KUBERNETES_TOKEN_PATH", "--kubernetes-token-path"),
    (Key::CaPath, "kubernetes.ca.path", "KUBERNETES_CA_PATH", "--kubernetes-ca-path"),
    (Key::EnvoyPort, "envoy.port", "ENVOY_PORT", "--envoy-port"),
    (Key::AddressFamily, "address-family", "ADDRESS_FAMILY", "--address-family"),
    (Key::FailStatic, "fail-static-time-s", "FAIL_STATIC_TIME_S", "--fail-static-time-s"),
];

/// All that was given, before checks.
#[derive(Debug)]
pub(super) struct Sources(BTreeMap<Key, Given>);

/// A text and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    text: String,
    place: String,
    usage: bool,
}

impl Sources {
    pub fn gather(flags: &Flags, around: &Surroundings<'_>) -> Result<Self, SettingsError> {
        let variable = |name: &str| (around.variable)(name).filter(|value| !value.is_empty());
        let mut all = BTreeMap::new();
        if let Some(path) = flags.config.clone().or_else(|| variable("CONFIG_PATH")) {
            for (name, text) in file::read(&path).map_err(|why| error(format!("{path} {why}"), false))? {
                let key =
                    KEYS.iter().find(|(_, key, ..)| *key == name).ok_or_else(|| unknown(&path, &name))?.0;
                let place = format!("{path}: `{name}`");
                all.insert(key, Given { text, place, usage: false });
            }
        }
        for (key, _, name, _) in KEYS {
            // What Kubernetes sets beside a Service named `envoy` is no port.
            if let Some(text) = variable(name).filter(|text| key != Key::EnvoyPort || !text.contains("://")) {
                all.insert(key, Given { text, place: format!("variable {name}"), usage: false });
            }
        }
        for (key, _, _, name) in KEYS {
            if let Some(text) = flag(flags, key) {
                all.insert(key, Given { text: text.clone(), place: name.to_owned(), usage: true });
            }
        }
        Ok(Self(all))
    }

    pub fn get(&self, key: Key) -> Option<Given> {
        self.0.get(&key).cloned()
    }
}

impl Given {
    pub fn default(text: &str) -> Self {
        Self { text: text.to_owned(), place: "in-cluster default".to_owned(), usage: false }
    }

    pub fn address(&self) -> Result<SocketAddr, SettingsError> {
        let address = self.text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        address.ok_or_else(|| self.wrong("is no address with a port; write it like [::]:8080"))
    }

    pub fn port(&self) -> Result<u16, SettingsError> {
        let port = self.text.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| self.wrong("is no port; give a number from 1 to 65535"))
    }

    pub fn boolean(&self) -> Result<bool, SettingsError> {
        self.text.parse().map_err(|_| self.wrong("is neither true nor false"))
    }

    pub fn url(&self) -> Result<Uri, SettingsError> {
        let url: Option<Uri> = self.text.parse().ok();
        let usable = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
        url.filter(usable).ok_or_else(|| {
            self.wrong("is no URL; write it like https://192.168.42.69:8443 or https://[fd00::1]:8443")
        })
    }

    pub fn family(&self) -> Result<Family, SettingsError> {
        match self.text.as_str() {
            "auto" => Ok(Family::Auto),
            "ipv4" => Ok(Family::Ipv4),
            "ipv6" => Ok(Family::Ipv6),
            _ => Err(self.wrong("is no address family; give auto, ipv4 or ipv6")),
        }
    }

    /// At most a day, so that no time can overflow.
    pub fn seconds(&self) -> Result<Duration, SettingsError> {
        let seconds = self.text.parse().ok().filter(|seconds| *seconds <= 86_400);
        let seconds = seconds.ok_or_else(|| self.wrong("is no time; give seconds, from 0 to 86400"))?;
        Ok(Duration::from_secs(seconds))
    }

    /// A namespace.
    pub fn label(&self) -> Result<String, SettingsError> {
        if crate::v1::is_label(&self.text) {
            return Ok(self.text.clone());
        }
        Err(self.wrong("is no namespace; use lower-case letters, digits and `-`"))
    }

    pub fn file(&self) -> Result<PathBuf, SettingsError> {
        let path = Path::new(&self.text);
        match std::fs::File::open(path) {
            Ok(_) => Ok(path.to_owned()),
            Err(why) => Err(self.wrong(&format!("cannot be read ({why}); give the path of a readable file"))),
        }
    }

    fn wrong(&self, why: &str) -> SettingsError {
        error(format!("{}: '{}' {why}", self.place, self.text), self.usage)
    }
}

fn flag(flags: &Flags, key: Key) -> Option<&String> {
    match key {
        Key::Listen => flags.listen.as_ref(),
        Key::Namespace => flags.kubernetes_namespace.as_ref(),
        Key::AllNamespaces => flags.kubernetes_all_namespaces.as_ref(),
        Key::ApiHost => flags.kubernetes_api_host.as_ref(),
        Key::TokenPath => flags.kubernetes_token_path.as_ref(),
        Key::CaPath => flags.kubernetes_ca_path.as_ref(),
        Key::EnvoyPort => flags.envoy_port.as_ref(),
        Key::AddressFamily => flags.address_family.as_ref(),
        Key::FailStatic => flags.fail_static_time_s.as_ref(),
    }
}

fn unknown(path: &str, name: &str) -> SettingsError {
    let known: Vec<&str> = KEYS.iter().map(|(_, key, ..)| *key).collect();
    error(format!("{path}: `{name}` is no setting of sds; known are {}", known.join(", ")), false)
}

fn error(text: String, usage: bool) -> SettingsError {
    SettingsError { text, usage }
}
