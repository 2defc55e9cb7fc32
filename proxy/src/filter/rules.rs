//! The connection manager's rules as data: what `edge`, `path` and `answer` go by.

use std::net::IpAddr;

use crate::message::FieldValueBuf;

/// All rules of one connection manager.
#[derive(Clone, Debug)]
pub struct Rules {
    pub addresses: Addresses,
    pub request_id: RequestId,
    pub path: PathOptions,
    pub server: ServerHeader,
    /// Appended to `via` of requests and answers; empty for none.
    pub via: FieldValueBuf,
    pub add_user_agent: bool,
    /// The router adds no `x-envoy-*` fields to requests and answers.
    pub suppress_envoy_headers: bool,
    pub strip_port: StripPort,
    /// `example.com.` is `example.com` (`strip_trailing_host_dot`).
    pub strip_dot: bool,
    /// Fields that only internal clients may send (the route table's `internal_only_headers`), in lower case.
    pub internal_only: Vec<Box<str>>,
    /// `--service-cluster` and `--service-node`, for `x-envoy-downstream-service-*` with `add_user_agent`.
    pub service_cluster: FieldValueBuf,
    pub service_node: FieldValueBuf,
}

/// How far a client's word about addresses is believed.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// The peer is the client: `x-forwarded-for` and `x-forwarded-proto` are set from it (`use_remote_address`).
    pub use_remote: bool,
    pub trusted_hops: u32,
    pub skip_append: bool,
    pub append_forwarded_port: bool,
    /// An IPv4 peer is appended to `x-forwarded-for` as the IPv6 address that it maps to.
    pub mapped: bool,
    /// What the client says about its way here (`x-forwarded-*`, `forwarded`) and every `x-envoy-*` field is removed (the edge).
    pub believe_nothing: bool,
    /// `x-forwarded-client-cert` is passed on (`forward_client_cert_details: ALWAYS_FORWARD_ONLY`).
    pub keep_client_cert: bool,
    /// Ranges whose clients count as internal: their `x-envoy-*` fields are kept.
    pub internal: Vec<(IpAddr, u8)>,
}

#[derive(Clone, Copy, Debug)]
pub struct RequestId {
    pub generate: bool,
    /// Keep that of an external client as well.
    pub preserve_external: bool,
    pub always_in_response: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct PathOptions {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Clone, Debug)]
pub enum ServerHeader {
    Overwrite(FieldValueBuf),
    AppendIfAbsent(FieldValueBuf),
    PassThrough,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    Keep,
    /// Only the listener's own port.
    Matching,
    Any,
}
