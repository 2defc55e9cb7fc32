//! `/listeners`: names and addresses, as text or JSON.

use serde_json::json;

use super::AdminContext;
use super::clusters::address;
use super::page::{Page, Params};

/// Listeners that no longer accept are listed as long as they exist, as in Envoy.
pub(super) fn page(context: &AdminContext, params: &Params) -> Page {
    let snapshot = context.snapshot.borrow().clone();
    if params.get("format") == Some("json") {
        let statuses: Vec<_> = snapshot
            .listeners
            .iter()
            .map(|listener| json!({"name": *listener.name, "local_address": address(listener.address)}))
            .collect();
        return Page::json(&json!({ "listener_statuses": statuses }));
    }
    let lines =
        snapshot.listeners.iter().map(|listener| format!("{}::{}\n", listener.name, listener.address));
    Page::text(lines.collect::<String>())
}
