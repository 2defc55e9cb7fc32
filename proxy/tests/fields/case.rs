//! The cases: a base file, a place in it, and the other value of one field there.
//!
//! Read from `cases/*.yaml` and `bases/*.yaml`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::schema;

/// Names for places of the bases that many cases share.
const PLACES: [(&str, &str); 6] = [
    ("$action", "$route.route"),
    ("$route", "$vhost.routes.0"),
    ("$vhost", "$manager.route_config.virtual_hosts.0"),
    ("$manager", "$listener.filter_chains.0.filters.0.typed_config"),
    ("$listener", "static_resources.listeners.0"),
    ("$cluster", "static_resources.clusters.0"),
];

/// A place without names.
fn whole(at: &str) -> String {
    PLACES.iter().fold(at.to_owned(), |at, (name, place)| at.replacen(name, place, 1))
}

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    groups: Vec<Group>,
}

/// Cases for the fields of one message at one place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    message: String,
    /// A file in `bases/`, without its ending.
    base: String,
    /// Keys and places in lists, joined by dots; nothing is the file itself. A key with dots stands in brackets; `PLACES` have names.
    #[serde(default)]
    at: String,
    /// Laid over these places in both files; null takes a key away.
    #[serde(default)]
    with: BTreeMap<String, Value>,
    #[serde(default)]
    effect: Effect,
    /// Where the effect is, when it is not in what is built.
    #[serde(default)]
    because: String,
    /// Each field with its other value; null takes it away.
    fields: BTreeMap<String, Value>,
}

/// Where a change shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// In the snapshot or the settings of the whole proxy.
    #[default]
    Built,
    /// The changed file is refused, by a finding that has this text.
    Refused(String),
    /// In the response of this admin page.
    Page(String),
}

/// One field, changed alone.
#[derive(Clone, Debug)]
pub struct Case {
    /// Full name, as `envoy.config.cluster.v3.Cluster.connect_timeout`.
    pub field: String,
    pub effect: Effect,
    file: String,
    message: String,
    base: Value,
    at: String,
    name: String,
    value: Value,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, at `{}`)", self.field, self.file, self.at)
    }
}

impl Case {
    /// The file without and with the change.
    pub fn files(&self) -> Result<(Value, Value), String> {
        let message = schema::message_at(&self.base, &self.at)?;
        if message.full_name() != self.message {
            return Err(format!("at `{}` is a {}", self.at, message.full_name()));
        }
        let field = message.get_field_by_name(&self.name).ok_or("Envoy has no such field")?;
        if !xds::is_implemented(&field) {
            return Err("it is marked `refused` or `harmless`: take the case away".to_owned());
        }
        let mut changed = self.base.clone();
        let place = schema::value_at(&mut changed, &self.at)?;
        let fields = place.as_object_mut().ok_or("there is no mapping at this place")?;
        let others =
            field.containing_oneof().into_iter().flat_map(|group| group.fields().collect::<Vec<_>>());
        for other in others.filter(|other| *other != field) {
            fields.remove(other.name());
        }
        if self.value.is_null() {
            fields.remove(&self.name);
        } else {
            fields.insert(self.name.clone(), self.value.clone());
        }
        Ok((self.base.clone(), changed))
    }

    /// A case of a field whose two values mean the same, so no behaviour tells them apart.
    pub fn unread() -> Self {
        let mut case = all()
            .into_iter()
            .find(|case| case.field == "envoy.config.cluster.v3.Cluster.connect_timeout")
            .unwrap();
        case.value = "5s".into();
        case
    }
}

/// Supported fields of which nothing is read as yet, one a line. Each is to be wired in or marked, and its line taken away.
pub fn unread() -> Vec<String> {
    let text = std::fs::read_to_string(folder("unread.txt")).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Every case, in the order of files.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in files("cases") {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read: File = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        for group in read.groups {
            cases.extend(of_group(&name, group));
        }
    }
    cases
}

fn of_group(file: &str, group: Group) -> Vec<Case> {
    assert!(
        !matches!(group.effect, Effect::Page(_)) || !group.because.is_empty(),
        "{file}: {} at `{}`: `because` says why the effect is not in what is built",
        group.message,
        group.at
    );
    let text = std::fs::read_to_string(folder("bases").join(format!("{}.yaml", group.base)))
        .unwrap_or_else(|error| panic!("{file}: the base `{}`: {error}", group.base));
    let mut base: Value =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", group.base));
    for (at, over) in &group.with {
        let place = schema::value_at(&mut base, &whole(at))
            .unwrap_or_else(|text| panic!("{file}: {} with `{at}`: {text}", group.message));
        lay_over(place, over);
    }
    let each = group.fields.into_iter().map(|(name, value)| Case {
        field: format!("{}.{name}", group.message),
        effect: group.effect.clone(),
        file: file.to_owned(),
        message: group.message.clone(),
        base: base.clone(),
        at: whole(&group.at),
        name,
        value,
    });
    each.collect()
}

/// Mappings are merged; null takes a key away; anything else replaces what was there.
fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(key);
                } else {
                    lay_over(under.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (under, over) => *under = over.clone(),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fields").join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    paths
}
