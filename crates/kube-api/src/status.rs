//! `Status`: the answer of a Kubernetes API server that is not an object, in the server's own field order.
//!
//! Texts, reasons and details are those of kube-apiserver 1.36, so that a client that matches on them is tested
//! against the real thing.
//!
//! Every module makes these; `answer` writes them to the wire.

use http::StatusCode;
use serde::Serialize;

use crate::resources::Resource;

/// The metav1 `Status` object: a refusal (`status: Failure`) or the receipt of a deletion (`status: Success`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Status {
    kind: &'static str,
    api_version: &'static str,
    /// Holds `continue` when an expired list may be carried on inconsistently, else nothing.
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    pub status: &'static str,
    /// What a person reads; kubectl prints it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What a program matches on, for example `NotFound`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// The object it is about, and the causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// The HTTP status; left out of a receipt.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The list metadata of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListMeta {
    /// A token that continues the list without consistency.
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continue_token: Option<Box<str>>,
}

/// What a `Status` is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its API group; empty for the core group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its resource (plural), or its kind where a validation failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid (receipts only).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Each single fault that a validation found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds to wait before the next try; 0 means that none is advised.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u16,
}

/// One fault of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// For example `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// The field, as a path; empty where no field is meant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub field: &'static str,
}

// serde calls it with a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl Status {
    /// A refusal without details.
    pub fn failure(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: ListMeta::default(),
            status: "Failure",
            message: message.into(),
            reason,
            details: None,
            code: code.as_u16(),
        }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: no valid token.
    pub fn unauthorized() -> Self {
        Self::failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 404: no such object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::failure(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    /// 404: no such resource, version or path below a known group.
    pub fn no_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::failure(StatusCode::NOT_FOUND, "NotFound", message).with(Details::default())
    }

    /// 405: the resource does not know this verb.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with(Details::default())
    }

    /// 501: what a real server hands on to a kubelet or a controller.
    pub fn not_implemented(resource: &Resource, subresource: &str) -> Self {
        let message = format!(
            "{}/{subresource} is not served: kube-api stores objects and runs no containers; ask a real cluster",
            resource.plural
        );
        Self::failure(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    /// 403 of an object that admission refuses.
    pub fn refused(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::failure(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// 409: a create of what exists.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::failure(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    /// 409: an update based on an old resourceVersion (or on another object's uid).
    pub fn conflict(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your \
             changes to the latest version and try again",
            resource.qualified()
        );
        Self::failure(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    /// 410: the version asked for is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(StatusCode::GONE, "Expired", message)
    }

    /// 422 of an object.
    pub fn invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut status = Self::invalid_fields(&kind, name, causes);
        if let Some(details) = status.details.as_mut() {
            details.name = name.to_owned();
            details.group = resource.group.to_owned();
            details.kind = resource.kind.to_owned();
        }
        status
    }

    /// 422 of the options of a list or watch.
    pub fn invalid_options(causes: Vec<Cause>) -> Self {
        let mut status = Self::invalid_fields("ListOptions.meta.k8s.io", "", causes);
        if let Some(details) = status.details.as_mut() {
            details.group = "meta.k8s.io".to_owned();
            details.kind = "ListOptions".to_owned();
        }
        status
    }

    fn invalid_fields(kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let mut texts: Vec<_> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{kind} \"{name}\" is invalid: {text}");
        let details = Details { causes, ..Details::default() };
        Self::failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(details)
    }

    /// 504: a version that does not exist yet, after waiting for it.
    pub fn too_large_version(asked: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: "",
        };
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
        Self::failure(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with(details)
    }

    /// 507: the store is full. (A real server: 500 and a text of etcd's.)
    pub fn full(limit: usize) -> Self {
        let message = format!("the server stores {limit} objects at most; delete some, or raise max_objects");
        Self::failure(StatusCode::INSUFFICIENT_STORAGE, "InternalError", message)
    }

    /// The receipt of a deletion.
    pub fn deleted(resource: &Resource, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(StatusCode::OK, "", "").about(resource, name);
        status.status = "Success";
        status.code = 0;
        if let Some(details) = status.details.as_mut() {
            details.uid = uid.to_owned();
        }
        status
    }

    /// With these details.
    pub fn with(self, details: Details) -> Self {
        Self { details: Some(Box::new(details)), ..self }
    }

    /// The HTTP status to send it with.
    pub fn http_status(&self) -> StatusCode {
        if self.code == 0 {
            return StatusCode::OK;
        }
        StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn about(self, resource: &Resource, name: &str) -> Self {
        let (name, group, kind) = (name.to_owned(), resource.group.to_owned(), resource.plural.to_owned());
        self.with(Details { name, group, kind, ..Details::default() })
    }
}
