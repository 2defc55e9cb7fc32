//! The header names that mean something to the proxy, as small numbers, and which of them Envoy keeps in one line.

macro_rules! known_names {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A header name that the proxy itself reads or writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Known { $($variant),+ }

        impl Known {
            pub(super) const COUNT: usize = [$(Self::$variant),+].len();

            /// The name in lower case, as HTTP/2 sends it.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The well-known name spelled `lower` (which must be in lower case already).
            pub(crate) fn find(lower: &[u8]) -> Option<Self> {
                match std::str::from_utf8(lower).ok()? {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

known_names! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    AccessControlAllowCredentials = "access-control-allow-credentials",
    AccessControlAllowHeaders = "access-control-allow-headers",
    AccessControlAllowMethods = "access-control-allow-methods",
    AccessControlAllowOrigin = "access-control-allow-origin",
    AccessControlAllowPrivateNetwork = "access-control-allow-private-network",
    AccessControlExposeHeaders = "access-control-expose-headers",
    AccessControlMaxAge = "access-control-max-age",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    AccessControlRequestPrivateNetwork = "access-control-request-private-network",
    Age = "age",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    Expires = "expires",
    GrpcAcceptEncoding = "grpc-accept-encoding",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    IfMatch = "if-match",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    IfRange = "if-range",
    IfUnmodifiedSince = "if-unmodified-since",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    Origin = "origin",
    Pragma = "pragma",
    ProxyConnection = "proxy-connection",
    ProxyStatus = "proxy-status",
    Referer = "referer",
    Server = "server",
    SetCookie = "set-cookie",
    Te = "te",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
    XClientTraceId = "x-client-trace-id",
    XEnvoyAttemptCount = "x-envoy-attempt-count",
    XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDegraded = "x-envoy-degraded",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address",
    XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail",
    XEnvoyInternal = "x-envoy-internal",
    XEnvoyIpTags = "x-envoy-ip-tags",
    XEnvoyIsTimeoutRetry = "x-envoy-is-timeout-retry",
    XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalHost = "x-envoy-original-host",
    XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyOriginalUrl = "x-envoy-original-url",
    XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyRateLimited = "x-envoy-ratelimited",
    XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes",
    XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on",
    XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamCanary = "x-envoy-upstream-canary",
    XEnvoyUpstreamHealthcheckedCluster = "x-envoy-upstream-healthchecked-cluster",
    XEnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XEnvoyUpstreamStreamDurationMs = "x-envoy-upstream-stream-duration-ms",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

// `bit` has room for each of them.
const _: () = assert!(Known::COUNT <= 128);

impl Known {
    pub(super) fn bit(self) -> u128 {
        1 << (self as u8)
    }

    /// Whether repeated lines are joined by commas into one, as Envoy keeps the headers that it has a place for in this
    /// direction (recorded for each of them). Those that may not be joined, and all others, stay as they came.
    pub(crate) fn is_joined(self, direction: Direction) -> bool {
        match self {
            Self::CacheControl
            | Self::Connection
            | Self::ContentEncoding
            | Self::ContentLength
            | Self::ContentType
            | Self::KeepAlive
            | Self::ProxyConnection
            | Self::ProxyStatus
            | Self::TransferEncoding
            | Self::Upgrade
            | Self::Via
            | Self::XEnvoyAttemptCount
            | Self::XEnvoyDecoratorOperation
            | Self::XRequestId => true,
            Self::Accept
            | Self::AcceptEncoding
            | Self::AccessControlRequestHeaders
            | Self::AccessControlRequestMethod
            | Self::AccessControlRequestPrivateNetwork
            | Self::Authorization
            | Self::Expect
            | Self::GrpcAcceptEncoding
            | Self::GrpcTimeout
            | Self::Host
            | Self::IfMatch
            | Self::IfModifiedSince
            | Self::IfNoneMatch
            | Self::IfRange
            | Self::IfUnmodifiedSince
            | Self::Origin
            | Self::Pragma
            | Self::Referer
            | Self::Te
            | Self::UserAgent
            | Self::XClientTraceId
            | Self::XEnvoyDownstreamServiceCluster
            | Self::XEnvoyDownstreamServiceNode
            | Self::XEnvoyExpectedRqTimeoutMs
            | Self::XEnvoyExternalAddress
            | Self::XEnvoyForceTrace
            | Self::XEnvoyHedgeOnPerTryTimeout
            | Self::XEnvoyInternal
            | Self::XEnvoyIpTags
            | Self::XEnvoyIsTimeoutRetry
            | Self::XEnvoyMaxRetries
            | Self::XEnvoyOriginalHost
            | Self::XEnvoyOriginalPath
            | Self::XEnvoyOriginalUrl
            | Self::XEnvoyRetriableHeaderNames
            | Self::XEnvoyRetriableStatusCodes
            | Self::XEnvoyRetryGrpcOn
            | Self::XEnvoyRetryOn
            | Self::XEnvoyUpstreamAltStatName
            | Self::XEnvoyUpstreamRqPerTryTimeoutMs
            | Self::XEnvoyUpstreamRqTimeoutAltResponse
            | Self::XEnvoyUpstreamRqTimeoutMs
            | Self::XEnvoyUpstreamStreamDurationMs
            | Self::XForwardedFor
            | Self::XForwardedHost
            | Self::XForwardedPort
            | Self::XForwardedProto => direction == Direction::Request,
            Self::AccessControlAllowCredentials
            | Self::AccessControlAllowHeaders
            | Self::AccessControlAllowMethods
            | Self::AccessControlAllowOrigin
            | Self::AccessControlAllowPrivateNetwork
            | Self::AccessControlExposeHeaders
            | Self::AccessControlMaxAge
            | Self::Age
            | Self::Date
            | Self::Etag
            | Self::Expires
            | Self::GrpcMessage
            | Self::GrpcStatus
            | Self::LastModified
            | Self::Location
            | Self::Server
            | Self::Vary
            | Self::XEnvoyDegraded
            | Self::XEnvoyImmediateHealthCheckFail
            | Self::XEnvoyRateLimited
            | Self::XEnvoyUpstreamCanary
            | Self::XEnvoyUpstreamHealthcheckedCluster
            | Self::XEnvoyUpstreamServiceTime => direction == Direction::Response,
            Self::AcceptLanguage
            | Self::Cookie
            | Self::SetCookie
            | Self::Trailer
            | Self::XEnvoyOverloaded => false,
        }
    }
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}
