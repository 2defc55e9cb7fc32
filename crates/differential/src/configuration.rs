//! Configurations: a base file and changes of some of its settings. Several of them, each with listeners, clusters and
//! upstreams of its own, share one bootstrap, so that a pair of proxies serves many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::overlay::{lay_at, lay_over};

/// Names for places of the base, as in `proxy/tests/fields`.
const PLACES: [(&str, &str); 6] = [
    ("$action", "$route.route"),
    ("$route", "$vhost.routes.0"),
    ("$vhost", "$manager.route_config.virtual_hosts.0"),
    ("$manager", "$listener.filter_chains.0.filters.0.typed_config"),
    ("$listener", "static_resources.listeners.0"),
    ("$cluster", "static_resources.clusters.0"),
];

/// What the log of each configuration shows: operators that do not depend on time.
pub const LOG: [&str; 22] = [
    "REQ(:METHOD)",
    "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "REQ(:AUTHORITY)",
    "PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_FLAGS",
    "RESPONSE_CODE_DETAILS",
    "CONNECTION_TERMINATION_DETAILS",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "UPSTREAM_CLUSTER",
    "ROUTE_NAME",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_HOST",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "REQUEST_HEADERS_BYTES",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESP(CONTENT-TYPE)",
    "TRAILER(X-TRAILER)",
    "VIRTUAL_CLUSTER_NAME",
];
/// Between two of them in a line. No request holds it.
pub const BETWEEN: &str = " ~|~ ";

/// Changes of one setting, laid over the base: mappings are merged, null takes a key away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The field, for people.
    pub name: String,
    pub places: BTreeMap<String, Value>,
}

/// A base with changes, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// A file of the repository in place of the base. Only the readers see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub changes: Vec<Change>,
}

/// The addresses of one configuration on one side.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub listener: u16,
    pub upstream: u16,
    /// Nothing listens here.
    pub refusing: u16,
    /// Holds a file `text`, and the access log.
    pub folder: PathBuf,
}

impl Configuration {
    /// Whether an upstream that says nothing is given up within the time that a client waits.
    pub fn has_timeouts(&self) -> bool {
        let text = serde_json::to_string(&self.changes).unwrap_or_default();
        ["\"timeout\":\"0.1s\"", "\"per_try_timeout\":\"0.1s\""].iter().any(|part| text.contains(part))
    }

    /// Whether requests are copied.
    pub fn has_mirrors(&self) -> bool {
        let text = serde_json::to_string(&self.changes).unwrap_or_default();
        text.contains("request_mirror_policies")
    }

    /// The file with all changes that can be made.
    pub fn tree(&self) -> anyhow::Result<Value> {
        let mut tree = match &self.file {
            Some(file) => shipped(file)?,
            None => base()?,
        };
        for change in &self.changes {
            let before = tree.clone();
            for (at, over) in &change.places {
                if !lay_at(&mut tree, at, over) {
                    // Another change took the place away.
                    tree = before;
                    break;
                }
            }
        }
        Ok(tree)
    }

    /// The listeners and clusters with names and addresses of their own.
    pub fn part(&self, number: usize, addresses: &Addresses) -> anyhow::Result<(Vec<Value>, Vec<Value>)> {
        let mut tree = self.tree()?;
        let clusters = names(&tree, "clusters");
        let listeners = names(&tree, "listeners");
        let own = Own { number, addresses, clusters, listeners };
        own.rename(&mut tree, "");
        let mut take =
            |kind: &str| match tree.pointer_mut(&format!("/static_resources/{kind}")).map(Value::take) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
        Ok((take("listeners"), take("clusters")))
    }
}

/// A bootstrap of several parts.
pub fn bootstrap(parts: impl IntoIterator<Item = (Vec<Value>, Vec<Value>)>, admin: u16) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (of_listeners, of_clusters) in parts {
        listeners.extend(of_listeners);
        clusters.extend(of_clusters);
    }
    json!({
        "node": { "id": "judge", "cluster": "judge" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": admin } } },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

/// Every change that the judge knows: the field tests' and those of `settings.yaml`.
pub fn catalogue() -> anyhow::Result<Vec<Change>> {
    let mut changes = settings()?;
    let folder = repository().join("proxy/tests/fields/cases");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    for file in files {
        changes.extend(field_cases(&file)?);
    }
    Ok(changes)
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    message: String,
    base: String,
    #[serde(default)]
    at: String,
    #[serde(default)]
    with: BTreeMap<String, Value>,
    #[serde(default)]
    effect: Value,
    fields: BTreeMap<String, Value>,
}

/// Messages whose effect the judge cannot see, or that reach beyond the configuration.
const LEFT_OUT: [&str; 6] = [
    "envoy.config.bootstrap.",
    "envoy.config.trace.",
    "envoy.config.overload.",
    "envoy.extensions.filters.network.tcp_proxy.",
    "envoy.config.core.v3.ApiConfigSource",
    "envoy.config.core.v3.ConfigSource",
];

/// Parts of a change that need more than the judge gives: spans, health checks, files of discovery, chance, copies of
/// requests that are known as copies. The last has no effect in petmesh (docs/supported-fields.md).
const NEEDS_MORE: [&str; 7] = [
    "\"tracing\"",
    "\"health_checks\"",
    "auto_config",
    "jitter",
    "eds_config",
    "disable_shadow_host_suffix_append",
    "stream_error_on_invalid_http_message",
];

fn field_cases(file: &Path) -> anyhow::Result<Vec<Change>> {
    let text = std::fs::read_to_string(file)?;
    let read: Groups = serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
    let mut changes = Vec::new();
    for group in read.groups {
        let at = whole(&group.at);
        let inside = |place: &str| place.starts_with("static_resources.");
        let usable = group.base == "http"
            && inside(&at)
            && group.with.keys().all(|place| inside(&whole(place)))
            && group.effect.is_null()
            && !LEFT_OUT.iter().any(|prefix| group.message.starts_with(prefix));
        if !usable {
            continue;
        }
        for (field, value) in group.fields {
            let mut places: BTreeMap<String, Value> =
                group.with.iter().map(|(place, value)| (whole(place), value.clone())).collect();
            let setting = json!({ field.as_str(): value });
            places.entry(at.clone()).and_modify(|under| lay_over(under, &setting)).or_insert(setting.clone());
            let text = serde_json::to_string(&places).unwrap_or_default();
            places.values_mut().for_each(without_chance);
            // A copy of a request is known by its host.
            let hides_copies = field == "host_rewrite_literal" && text.contains("request_mirror_policies");
            if !hides_copies && !NEEDS_MORE.iter().any(|part| text.contains(part)) {
                changes.push(Change { name: format!("{}.{field}", group.message), places });
            }
        }
    }
    Ok(changes)
}

/// Shares of requests become all of them, and what depends on time comes at once or never.
fn without_chance(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields.iter_mut() {
                match key.as_str() {
                    "numerator" => *inner = 100.into(),
                    "denominator" => *inner = "HUNDRED".into(),
                    "fixed_delay" => *inner = "0.01s".into(),
                    "fill_interval" | "cache_time" => *inner = "3600s".into(),
                    "limit_kbps" => *inner = 1000.into(),
                    key if key.starts_with("enforcing_") => *inner = 100.into(),
                    _ => without_chance(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_chance),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn settings() -> anyhow::Result<Vec<Change>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("settings.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let read: Vec<BTreeMap<String, Value>> = serde_saphyr::from_str(&text).context("settings.yaml")?;
    let changes = read.into_iter().map(|places| {
        let places: BTreeMap<String, Value> =
            places.into_iter().map(|(place, value)| (whole(&place), value)).collect();
        Change { name: serde_json::to_string(&places).unwrap_or_default(), places }
    });
    Ok(changes.collect())
}

/// Files that the repository ships, below its root.
pub const SHIPPED: [&str; 3] =
    ["deploy/config/ingress.yaml", "deploy/config/pet.yaml", "deploy/config/petstore.yaml"];

/// A shipped file that Envoy takes too: discovery of the v1 API is petmesh's alone.
fn shipped(file: &str) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(repository().join(file)).with_context(|| file.to_owned())?;
    let mut tree: Value = serde_saphyr::from_str(&text).with_context(|| file.to_owned())?;
    let clusters = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut);
    for cluster in clusters.into_iter().flatten().filter_map(Value::as_object_mut) {
        if cluster.remove("eds_cluster_config").is_some() {
            cluster.insert("type".to_owned(), "STATIC".into());
            let assignment = json!({ "cluster_name": cluster.get("name") });
            cluster.insert("load_assignment".to_owned(), assignment);
        }
    }
    Ok(tree)
}

/// The base: one listener with a connection manager, one cluster.
fn base() -> anyhow::Result<Value> {
    let path = repository().join("proxy/tests/fields/bases/http.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut base: Value = serde_saphyr::from_str(&text).context("the base")?;
    let log = LOG.map(|operator| format!("%{operator}%")).join(BETWEEN) + "\n";
    let more = json!({
        // A proxy that closes first waits for its client only this long.
        "delayed_close_timeout": "0.02s",
        // RFC 9113, 8.1.1: an invalid message ends its stream. Otherwise Envoy ends the connection.
        "http2_protocol_options": { "override_stream_error_on_invalid_http_message": true },
        "access_log": [{
            "name": "judge",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/folder/judge.log",
                "log_format": { "text_format_source": { "inline_string": log } },
            },
        }],
    });
    if !lay_at(&mut base, &whole("$manager"), &more) {
        bail!("the base has no connection manager");
    }
    Ok(base)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn whole(at: &str) -> String {
    PLACES.iter().fold(at.to_owned(), |at, (name, place)| at.replacen(name, place, 1))
}

fn names(tree: &Value, kind: &str) -> Vec<String> {
    let items = tree.pointer(&format!("/static_resources/{kind}")).and_then(Value::as_array);
    let names = items.into_iter().flatten().filter_map(|item| item["name"].as_str().map(str::to_owned));
    names.collect()
}

/// Makes names and addresses a configuration's own.
struct Own<'a> {
    number: usize,
    addresses: &'a Addresses,
    clusters: Vec<String>,
    listeners: Vec<String>,
}

impl Own<'_> {
    fn rename(&self, value: &mut Value, key: &str) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields.iter_mut() {
                    self.rename(inner, name);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.rename(item, key)),
            Value::String(text) => self.rename_text(text, key),
            Value::Number(number) if key == "port_value" => {
                let own = match number.as_u64() {
                    Some(10_000) => self.addresses.listener,
                    Some(8080) => self.addresses.upstream,
                    Some(0..=65_535) => self.addresses.refusing,
                    // Broken on purpose.
                    _ => return,
                };
                *value = own.into();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn rename_text(&self, text: &mut String, key: &str) {
        let own_name = self.clusters.contains(text) || (key == "name" && self.listeners.contains(text));
        if own_name || matches!(key, "stat_prefix" | "alt_stat_name") {
            text.push_str(&format!("-{}", self.number));
        } else if text.starts_with("/folder/") {
            *text = text.replacen("/folder", &self.addresses.folder.display().to_string(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each setting alone. What two of them say together may be wrong, and then both proxies refuse it.
    #[test]
    fn every_setting_is_read() {
        let addresses =
            Addresses { listener: 1000, upstream: 1001, refusing: 1002, folder: PathBuf::from("/folder") };
        let mut refused = Vec::new();
        let catalogue = catalogue().unwrap();
        assert!(catalogue.len() > 400, "{}", catalogue.len());
        for change in catalogue {
            let name = change.name.clone();
            let part = Configuration { changes: vec![change], ..Configuration::default() }
                .part(0, &addresses)
                .unwrap();
            let text = bootstrap([part], 1003).to_string();
            if let Err(errors) = xds::read_bootstrap("file", &text) {
                refused.push((name, errors));
            }
        }
        assert!(refused.is_empty(), "{refused:#?}");
    }

    #[test]
    fn names_and_addresses_are_a_configurations_own() {
        let addresses =
            Addresses { listener: 1000, upstream: 1001, refusing: 1002, folder: PathBuf::from("/of/7") };
        let (listeners, clusters) = Configuration::default().part(7, &addresses).unwrap();
        let text = json!([listeners, clusters]).to_string();
        assert!(text.contains("\"cluster\":\"pet-7\""), "{text}");
        assert!(text.contains("\"name\":\"pet-7\""), "{text}");
        assert!(text.contains("\"port_value\":1000") && text.contains("\"port_value\":1001"), "{text}");
        assert!(text.contains("/of/7/judge.log"), "{text}");
    }
}
