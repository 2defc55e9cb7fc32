//! Lists: consistent, exact or not older than a version; in pages; written item by item as the real server does.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::{self, Body, Chunker};
use crate::base64;
use crate::options::{Match, Options};
use crate::resources::{Resource, text};
use crate::status::{ListMeta, Status};
use crate::store::{Object, Store};
use crate::table::{self, Format};

/// How long a list waits for a version that does not exist yet (as the real server's watch cache).
const VERSION_WAIT: Duration = Duration::from_secs(3);

/// One page of a list.
struct Page {
    objects: Vec<Arc<Object>>,
    revision: u64,
    continue_token: Option<String>,
    remaining: Option<usize>,
}

// What a continue token holds; `start` without the leading slash. Revision -1: whatever is there now, without consistency.
struct Position {
    revision: i64,
    start: String,
}

/// Answers a list.
///
/// # Errors
/// 400 for a broken token, 410 for a version that is gone, 504 for one that does not come.
pub async fn list(
    store: &Store,
    resource: &'static Resource,
    namespace: Option<&str>,
    options: &Options,
    format: Format,
) -> Result<Response<Body>, Status> {
    let page = page(store, resource, namespace, options).await?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = &page.continue_token {
        metadata["continue"] = token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    match format {
        Format::Json => Ok(answer::json_body(StatusCode::OK, write(resource, &metadata, &page.objects))),
        Format::Table(include) => {
            let objects = page.objects.iter().map(|object| &object.value);
            let mut table = table::table(resource, objects, include, true);
            table["metadata"] = metadata;
            Ok(answer::value(StatusCode::OK, &table))
        }
        Format::Metadata => {
            let items: Vec<Value> =
                page.objects.iter().map(|object| table::metadata(&object.value)).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            Ok(answer::value(StatusCode::OK, &list))
        }
    }
}

fn write(resource: &Resource, metadata: &Value, objects: &[Arc<Object>]) -> Body {
    let mut chunker = Chunker::default();
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        resource.kind,
        resource.api_version(),
        list_metadata(metadata)
    );
    chunker.write(head.as_bytes());
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            chunker.write(b",");
        }
        chunker.write(&object.item());
    }
    chunker.write(b"]}\n");
    chunker.finish()
}

// resourceVersion first, as the real server has it.
fn list_metadata(metadata: &Value) -> String {
    let mut text = format!("{{\"resourceVersion\":{}", metadata["resourceVersion"]);
    for key in ["continue", "remainingItemCount"] {
        if let Some(value) = metadata.get(key) {
            text.push_str(&format!(",\"{key}\":{value}"));
        }
    }
    text.push('}');
    text
}

async fn page(
    store: &Store,
    resource: &'static Resource,
    namespace: Option<&str>,
    options: &Options,
) -> Result<Page, Status> {
    let mut position = None;
    if !options.continue_token.is_empty() {
        position = Some(decode(&options.continue_token)?);
    } else if let Some(version) = options.resource_version {
        wait_for(store, version).await?;
    }
    let at = match &position {
        Some(position) => u64::try_from(position.revision).ok(),
        None => exact(options),
    };
    let Some((mut objects, revision)) = store.snapshot(resource, namespace, at) else {
        return Err(gone(position.as_ref()));
    };
    if let Some(Position { start, .. }) = &position {
        // Compared in parts, as the store sorts: "-" and "." come before "/".
        let (from_namespace, from_name) = match namespace.is_none() && resource.namespaced {
            true => start.split_once('/').unwrap_or((start, "")),
            false => ("", start.as_str()),
        };
        let before = |object: &Object| {
            let (own, name) = place(&object.value);
            if from_namespace.is_empty() {
                name < from_name
            } else {
                (own, name) < (from_namespace, from_name)
            }
        };
        let first = objects.partition_point(|object| before(object));
        objects.drain(..first);
    }
    objects.retain(|object| options.selector.matches(&object.value));
    let mut page = Page { objects, revision, continue_token: None, remaining: None };
    // A list of resourceVersion 0 comes from the cache, which knows no pages.
    let paged = options.limit > 0 && options.resource_version != Some(0);
    if paged && page.objects.len() > options.limit {
        // The real server does not look ahead through a selector, so it counts only without one.
        let remaining = page.objects.len() - options.limit;
        page.remaining = options.selector.is_empty().then_some(remaining);
        page.objects.truncate(options.limit);
    }
    let full = paged && page.objects.len() == options.limit;
    if full && (page.remaining.is_some() || more_behind(store, resource, namespace, options, &page)) {
        page.continue_token =
            page.objects.last().map(|last| encode(resource, namespace, revision, &last.value));
    }
    Ok(page)
}

// With a selector a token is given if any object follows, whether or not it matches.
fn more_behind(
    store: &Store,
    resource: &'static Resource,
    namespace: Option<&str>,
    options: &Options,
    page: &Page,
) -> bool {
    if options.selector.is_empty() {
        return false;
    }
    let Some((all, _)) = store.snapshot(resource, namespace, Some(page.revision)) else { return false };
    match (all.last(), page.objects.last()) {
        (Some(last), Some(shown)) => !Arc::ptr_eq(last, shown),
        _ => false,
    }
}

fn exact(options: &Options) -> Option<u64> {
    let version = options.resource_version.filter(|&version| version > 0)?;
    match options.version_match {
        Match::Exact => Some(version),
        // Without a match a limit means exact, for the pages to fit together.
        Match::Unset if options.limit > 0 => Some(version),
        _ => None,
    }
}

async fn wait_for(store: &Store, version: u64) -> Result<(), Status> {
    let mut changes = store.changes();
    let reached = tokio::time::timeout(VERSION_WAIT, changes.wait_for(|&revision| revision >= version)).await;
    match reached {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Status::too_large_version(version, store.resource_version())),
    }
}

fn gone(position: Option<&Position>) -> Status {
    let Some(position) = position else {
        return Status::expired("The resourceVersion for the provided list is too old.");
    };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let token = token(-1, &position.start);
    status.metadata = ListMeta { continue_token: Some(token.into()) };
    status
}

// Where the next page begins: behind the key of this object, as the real server writes it below the list's prefix.
fn encode(resource: &Resource, namespace: Option<&str>, revision: u64, last: &Value) -> String {
    let (own, name) = place(last);
    let all = namespace.is_none() && resource.namespaced;
    let start = if all { format!("/{own}/{name}\0") } else { format!("/{name}\0") };
    token(i64::try_from(revision).unwrap_or(-1), &start)
}

fn place(object: &Value) -> (&str, &str) {
    (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

fn token(revision: i64, start: &str) -> String {
    let start = Value::from(start);
    base64::encode(format!("{{\"v\":\"meta.k8s.io/v1\",\"rv\":{revision},\"start\":{start}}}").as_bytes())
}

fn decode(token: &str) -> Result<Position, Status> {
    let invalid = |what: String| {
        Status::bad_request(format!("invalid continue token: continue key is not valid: {what}"))
    };
    let bytes =
        base64::decode(token).map_err(|at| invalid(format!("illegal base64 data at input byte {at}")))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| {
        // Go's text for the first byte; anything later in the token is not told apart.
        let first = bytes.first().copied().unwrap_or_default();
        let shown =
            if first.is_ascii_graphic() { char::from(first).to_string() } else { format!("\\u{first:04x}") };
        invalid(format!("invalid character '{shown}' looking for beginning of value"))
    })?;
    let (Some(revision), Some(start)) = (value["rv"].as_i64(), value["start"].as_str()) else {
        return Err(invalid("it has no version or start".to_owned()));
    };
    Ok(Position { revision, start: start.trim_start_matches('/').to_owned() })
}
