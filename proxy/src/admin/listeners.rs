//! `/listeners`: names and addresses, as text or JSON.

use serde_json::json;

use super::AdminContext;
use super::clusters::address;
use super::page::{Page, Params};

/// Listeners that no longer accept are listed as long as they exist, as in Envoy; those that could not be bound with their error.
pub(super) fn page(context: &AdminContext, params: &Params) -> Page {
    let snapshot = context.snapshot.borrow().clone();
    let accepted = context.accepted.borrow().clone();
    let error_of = |name: &str| {
        accepted.unbound.iter().find(|unbound| &*unbound.listener == name).map(|unbound| &*unbound.error)
    };
    if params.get("format") == Some("json") {
        let statuses: Vec<_> = snapshot
            .listeners
            .iter()
            .map(|listener| {
                let mut status = json!({"name": *listener.name, "local_address": address(listener.address)});
                if let (Some(error), Some(fields)) = (error_of(&listener.name), status.as_object_mut()) {
                    fields.insert("error".to_owned(), format!("cannot listen: {error}").into());
                }
                status
            })
            .collect();
        return Page::json(&json!({ "listener_statuses": statuses }));
    }
    let lines = snapshot.listeners.iter().map(|listener| {
        let error = error_of(&listener.name);
        let error = error.map(|error| format!("::cannot listen: {error}")).unwrap_or_default();
        format!("{}::{}{error}\n", listener.name, listener.address)
    });
    Page::text(lines.collect::<String>())
}
