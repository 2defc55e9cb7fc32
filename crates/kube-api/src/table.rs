//! `Table`: what kubectl prints. The server decides on the columns, so `kubectl get` shows the real server's.
//!
//! Also `PartialObjectMetadata`, the other form that a client may ask for instead of the whole object.

use serde_json::{Value, json};

use crate::resources::{Column, Resource, text};
use crate::time;

/// The form that the Accept header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The objects themselves.
    Json,
    /// Rows for people.
    Table(Include),
    /// `metadata` only.
    Metadata,
}

/// What of an object comes with its row (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    Metadata,
    Object,
    Nothing,
}

impl Format {
    /// The first form in the Accept header that is served; `None`: 406.
    pub fn negotiate(accept: &str, include: &str) -> Option<Self> {
        let include = match include {
            "Object" => Include::Object,
            "None" => Include::Nothing,
            _ => Include::Metadata,
        };
        if accept.is_empty() {
            return Some(Self::Json);
        }
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next()?;
            if !matches!(kind, "application/json" | "application/*" | "*/*") {
                return None;
            }
            let form = parts.find_map(|part| part.strip_prefix("as="));
            match form {
                None => Some(Self::Json),
                Some("Table") => Some(Self::Table(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
                Some(_) => None,
            }
        })
    }
}

/// A table of objects; `headings` is false in a watch after the first row.
pub fn table<'a>(
    resource: &Resource,
    objects: impl Iterator<Item = &'a Value>,
    include: Include,
    headings: bool,
) -> Value {
    let rows: Vec<_> = objects.map(|object| row(resource, object, include)).collect();
    let columns = if headings { columns(resource) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
}

/// An object reduced to its metadata.
pub fn metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn row(resource: &Resource, object: &Value, include: Include) -> Value {
    let mut own = (resource.cells)(object);
    let wide = own.split_off(own.len().min(resource.columns.len()));
    let mut cells = vec![text(object, "/metadata/name").into()];
    cells.extend(own);
    cells.push(age(object).into());
    cells.extend(wide);
    match include {
        Include::Nothing => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": metadata(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

fn age(object: &Value) -> String {
    match time::parse(text(object, "/metadata/creationTimestamp")) {
        Some(born) => time::age(time::unix_now().saturating_sub(born)),
        None => "<unknown>".to_owned(),
    }
}

fn columns(resource: &Resource) -> Value {
    let name = Column { name: "Name", kind: "string", priority: 0 };
    let age = Column { name: "Age", kind: "string", priority: 0 };
    let all = std::iter::once(&name).chain(resource.columns).chain([&age]).chain(resource.wide_columns);
    let described = all.map(|column| {
        let format = if column.name == "Name" { "name" } else { "" };
        json!({"name": column.name, "type": column.kind, "format": format, "description": "",
            "priority": column.priority})
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_is_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(Format::negotiate(table, "Object"), Some(Format::Table(Include::Object)));
        assert_eq!(
            Format::negotiate("application/vnd.kubernetes.protobuf,application/json", ""),
            Some(Format::Json)
        );
        assert_eq!(Format::negotiate("application/json;stream=watch", ""), Some(Format::Json));
        assert_eq!(Format::negotiate("", ""), Some(Format::Json));
        assert_eq!(Format::negotiate("text/html", ""), None);
    }
}
