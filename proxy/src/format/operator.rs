//! The operators of formats, and the names of those that take no argument.

use super::time::TimeFormat;
use crate::message::Known;

/// One `%…%`, ready to be evaluated.
#[derive(Clone, Debug)]
pub(super) enum Operator {
    Request(Header),
    Response(Header),
    Trailer(Header),
    QueryParam {
        name: Box<str>,
        limit: Option<usize>,
    },
    Path {
        query: bool,
        source: PathSource,
    },
    Query(PathSource),
    Time {
        format: TimeFormat,
        emit: bool,
    },
    Duration {
        from: Point,
        to: Point,
        unit: Unit,
    },
    GrpcStatus(GrpcStyle),
    /// A key of the route's metadata: the filter's name, then the path in it.
    RouteMetadata {
        path: Vec<Box<str>>,
        limit: Option<usize>,
    },
    /// Known when the format is parsed.
    Constant(Box<str>),
    /// `%RESPONSE_CODE_DETAILS%`, with spaces as they are or as underscores.
    Details {
        keep_spaces: bool,
    },
    Plain(Plain),
    /// Envoy has it; here there never is a value.
    Absent,
}

/// A header, the one to take when it is missing, and how much of its value.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub first: HeaderName,
    pub second: Option<HeaderName>,
    pub limit: Option<usize>,
}

/// A field or a pseudo-header, looked up once.
#[derive(Clone, Debug)]
pub(super) enum HeaderName {
    Known(Known),
    Other(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathSource {
    /// The path as it is sent upstream.
    Current,
    /// `x-envoy-original-path`.
    Original,
    OriginalOrCurrent,
}

/// A moment of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    RequestBegin,
    RequestEnd,
    UpstreamRequestBegin,
    UpstreamRequestEnd,
    UpstreamResponseBegin,
    UpstreamResponseEnd,
    ResponseEnd,
    /// A moment that nothing records.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcStyle {
    Camel,
    Snake,
    Number,
}

macro_rules! plain {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// The operators that take neither argument nor length.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Plain { $($variant),+ }

        pub(super) const PLAIN: &[(&str, Plain)] = &[$(($name, Plain::$variant)),+];
    };
}

plain! {
    RequestHeadersBytes = "REQUEST_HEADERS_BYTES",
    ResponseHeadersBytes = "RESPONSE_HEADERS_BYTES",
    ResponseTrailersBytes = "RESPONSE_TRAILERS_BYTES",
    BytesReceived = "BYTES_RECEIVED",
    BytesSent = "BYTES_SENT",
    Protocol = "PROTOCOL",
    UpstreamProtocol = "UPSTREAM_PROTOCOL",
    ResponseCode = "RESPONSE_CODE",
    ResponseFlags = "RESPONSE_FLAGS",
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
    UpstreamHost = "UPSTREAM_HOST",
    UpstreamHostName = "UPSTREAM_HOST_NAME",
    UpstreamHostNameWithoutPort = "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    UpstreamCluster = "UPSTREAM_CLUSTER",
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT",
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    DownstreamDirectLocalAddress = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    DownstreamDirectLocalAddressWithoutPort = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamDirectLocalPort = "DOWNSTREAM_DIRECT_LOCAL_PORT",
    ConnectionId = "CONNECTION_ID",
    StreamId = "STREAM_ID",
    UniqueId = "UNIQUE_ID",
    RouteName = "ROUTE_NAME",
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME",
    AccessLogType = "ACCESS_LOG_TYPE",
    LocalReplyBody = "LOCAL_REPLY_BODY",
}

/// What Envoy can print of TLS, filter state and listeners by name: those have no value here, as in an Envoy without them.
pub(super) const ABSENT: &[&str] = &[
    "CONNECTION_TERMINATION_DETAILS",
    "REQUESTED_SERVER_NAME",
    "FILTER_CHAIN_NAME",
    "DYNAMIC_METADATA",
    "UPSTREAM_METADATA",
    "CLUSTER_METADATA",
    "FILTER_STATE",
    "UPSTREAM_FILTER_STATE",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_PEER_SUBJECT",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "SPAN_ID",
];

/// The operators with arguments of their own.
pub(super) const OTHERS: &[&str] = &[
    "REQ",
    "REQUEST_HEADER",
    "RESP",
    "RESPONSE_HEADER",
    "TRAILER",
    "RESPONSE_TRAILER",
    "QUERY_PARAM",
    "QUERY_PARAMS",
    "PATH",
    "START_TIME",
    "EMIT_TIME",
    "DURATION",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_DURATION",
    "RESPONSE_TX_DURATION",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "COMMON_DURATION",
    "GRPC_STATUS",
    "GRPC_STATUS_NUMBER",
    "METADATA",
    "ENVIRONMENT",
    "HOSTNAME",
    "RESPONSE_CODE_DETAILS",
];

impl Operator {
    /// Whether anything in the value may come from a client or an upstream. Only what the configuration fixes does not.
    pub(super) fn may_carry_client_bytes(&self) -> bool {
        !matches!(self, Self::Constant(_) | Self::Time { .. } | Self::Duration { .. } | Self::Absent)
            && !self.is_number()
    }

    /// Whether the value is a number, which JSON shows without quotes.
    pub(super) fn is_number(&self) -> bool {
        match self {
            Self::Duration { .. } | Self::GrpcStatus(GrpcStyle::Number) => true,
            Self::Plain(plain) => matches!(
                plain,
                Plain::RequestHeadersBytes
                    | Plain::ResponseHeadersBytes
                    | Plain::ResponseTrailersBytes
                    | Plain::BytesReceived
                    | Plain::BytesSent
                    | Plain::ResponseCode
                    | Plain::UpstreamLocalPort
                    | Plain::UpstreamRemotePort
                    | Plain::UpstreamRequestAttemptCount
                    | Plain::DownstreamRemotePort
                    | Plain::DownstreamDirectRemotePort
                    | Plain::DownstreamLocalPort
                    | Plain::DownstreamDirectLocalPort
                    | Plain::ConnectionId
            ),
            _ => false,
        }
    }
}
