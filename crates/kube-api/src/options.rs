//! The options of a list or watch, checked as the real server checks them.

use http::StatusCode;

use crate::resources::Resource;
use crate::route::Query;
use crate::selector::Selector;
use crate::status::{Cause, Status};

/// Options of a list or watch.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(crate) selector: Selector,
    /// `None`: not given, or empty.
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Match,
    /// 0: no limit.
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: bool,
}

/// `resourceVersionMatch`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Match {
    #[default]
    Unset,
    Exact,
    NotOlderThan,
}

impl Options {
    /// Reads and checks them.
    ///
    /// # Errors
    /// 400, 422 or (for a resourceVersion that is no number) 500, as the real server.
    pub fn parse(resource: &Resource, query: &Query, watch: bool) -> Result<Self, Status> {
        let causes = faults(query, watch);
        if !causes.is_empty() {
            return Err(Status::invalid_options(causes));
        }
        let version_match = match query.get("resourceVersionMatch") {
            "Exact" => Match::Exact,
            "NotOlderThan" => Match::NotOlderThan,
            _ => Match::Unset,
        };
        Ok(Self {
            selector: Selector::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?,
            resource_version: version(query.get("resourceVersion"))?,
            version_match,
            limit: number(query, "limit")?.unwrap_or(0) as usize,
            continue_token: query.get("continue").to_owned(),
            timeout_seconds: number(query, "timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: query.flag("sendInitialEvents"),
        })
    }
}

fn faults(query: &Query, watch: bool) -> Vec<Cause> {
    let (wanted, version) = (query.get("resourceVersionMatch"), query.get("resourceVersion"));
    let initial = query.get("sendInitialEvents");
    let mut causes = Vec::new();
    let mut forbid = |field: &'static str, message: &str| {
        causes.push(Cause { reason: "FieldValueForbidden", message: format!("Forbidden: {message}"), field });
    };
    let field = "resourceVersionMatch";
    if watch {
        if !initial.is_empty() && wanted != "NotOlderThan" {
            forbid(field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        } else if initial.is_empty() && !wanted.is_empty() {
            forbid(field, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        return causes;
    }
    if !wanted.is_empty() {
        if version.is_empty() {
            forbid(field, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !query.get("continue").is_empty() {
            forbid(field, "resourceVersionMatch is forbidden when continue is provided");
        }
        if wanted == "Exact" && version == "0" {
            forbid(field, "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
        }
        if wanted != "Exact" && wanted != "NotOlderThan" {
            let message =
                format!("Unsupported value: \"{wanted}\": supported values: \"Exact\", \"NotOlderThan\"");
            causes.push(Cause { reason: "FieldValueNotSupported", message, field });
        }
    }
    if !initial.is_empty() {
        causes.push(Cause {
            reason: "FieldValueForbidden",
            message: "Forbidden: sendInitialEvents is forbidden for list".to_owned(),
            field: "sendInitialEvents",
        });
    }
    causes
}

fn version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let message = || {
        format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        )
    };
    // 500 without a reason: what the real server answers.
    text.parse().map(Some).map_err(|_| Status::failure(StatusCode::INTERNAL_SERVER_ERROR, "", message()))
}

fn number(query: &Query, key: &str) -> Result<Option<u64>, Status> {
    match query.get(key) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax ({key})"))
        }),
    }
}
