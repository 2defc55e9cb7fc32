//! What the proxy does to headers: the connection manager's rules for requests and responses, the
//! normalization of paths, and the changes that routes configure.

use std::collections::HashSet;

use crate::matcher::Cidr;
use crate::message::{FieldValueBuf, Fields, Known, work};

mod mutation;
pub(crate) mod path;
pub(crate) mod request;
pub(crate) mod response;
#[cfg(test)]
#[path = "../../tests/unit/headers.rs"]
mod tests;

pub(crate) use mutation::{Addition, AppendAction, Changes, Mutations, Values};

/// All rules of one connection manager.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(crate) addresses: Addresses,
    pub request_id: RequestId,
    pub(crate) path: PathOptions,
    pub(crate) server: ServerHeader,
    /// Appended to `via` of requests and responses; empty for none.
    pub(crate) via: FieldValueBuf,
    pub add_user_agent: bool,
    /// The router adds no `x-envoy-*` headers to requests and responses.
    pub suppress_envoy_headers: bool,
    pub(crate) strip_port: StripPort,
    /// `example.com.` is `example.com` (`strip_trailing_host_dot`).
    pub strip_dot: bool,
    /// Headers that only internal clients may send (the route table's `internal_only_headers`), in lower case.
    pub internal_only: Vec<Box<str>>,
    /// `--service-cluster` and `--service-node`, for `x-envoy-downstream-service-*` with `add_user_agent`.
    pub(crate) service_cluster: FieldValueBuf,
    pub(crate) service_node: FieldValueBuf,
}

/// Which of a client's own statements about addresses are trusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// The peer is the client: `x-forwarded-for` and `x-forwarded-proto` are set from it (`use_remote_address`).
    pub use_remote: bool,
    pub trusted_hops: u32,
    pub skip_append: bool,
    pub append_forwarded_port: bool,
    /// An IPv4 peer is appended to `x-forwarded-for` as the IPv6 address that it maps to.
    pub mapped: bool,
    /// What the client says about its way here (`x-forwarded-*`, `forwarded`) and every `x-envoy-*` header is removed (the edge).
    pub trust_nothing: bool,
    /// `x-forwarded-client-cert` is passed on (`forward_client_cert_details: ALWAYS_FORWARD_ONLY`).
    pub keep_client_cert: bool,
    /// Ranges whose clients count as internal: their `x-envoy-*` headers are kept.
    pub internal: Vec<Cidr>,
}

#[derive(Clone, Copy, Debug)]
pub struct RequestId {
    pub generate: bool,
    /// Keep that of an external client as well.
    pub preserve_external: bool,
    pub always_in_response: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathOptions {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Clone, Debug)]
pub(crate) enum ServerHeader {
    Overwrite(FieldValueBuf),
    AppendIfAbsent(FieldValueBuf),
    PassThrough,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StripPort {
    #[default]
    Keep,
    /// Only the listener's own port.
    Matching,
    Any,
}

/// Removes the headers that `connection` names as being for one connection only (RFC 9110, 7.6.1): one pass over the names, one over
/// the headers.
fn remove_nominated(fields: &mut Fields) {
    if !fields.contains(Known::Connection) {
        return;
    }
    let nominated: HashSet<Box<[u8]>> = fields
        .get_all(Known::Connection)
        .flat_map(list)
        .filter(|item| !is_of_connection(item))
        .map(|item| item.to_ascii_lowercase().into())
        .collect();
    if !nominated.is_empty() {
        fields.retain(|name, _| !nominated.contains(name.as_bytes()));
    }
}

/// Whether an item of `connection` is about the connection itself, or names a header with its own
/// rules.
fn is_of_connection(item: &[u8]) -> bool {
    const OWN: [&[u8]; 5] = [b"close", b"keep-alive", b"upgrade", b"te", b"connection"];
    OWN.iter().any(|name| item.eq_ignore_ascii_case(name))
}

/// The items of a comma-separated value, without white space around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    work::step(value.len());
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}
