//! What can go wrong on the way of a request, whose fault it is, and which of Envoy's response flags says so.
//!
//! Fault, status, text and flag are computed by exhaustive matches, so that no error can exist without them.
//! Only `local_reply` turns errors into responses.

/// Envoy's response flags: what the proxy has to say about an exchange, several at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u32);

/// One response flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Flag {
    FailedLocalHealthCheck = 1,
    NoHealthyUpstream = 1 << 1,
    UpstreamRequestTimeout = 1 << 2,
    LocalReset = 1 << 3,
    UpstreamRemoteReset = 1 << 4,
    UpstreamConnectionFailure = 1 << 5,
    UpstreamConnectionTermination = 1 << 6,
    UpstreamOverflow = 1 << 7,
    NoRouteFound = 1 << 8,
    DelayInjected = 1 << 9,
    FaultInjected = 1 << 10,
    RateLimited = 1 << 11,
    UnauthorizedExternalService = 1 << 12,
    RateLimitServiceError = 1 << 13,
    DownstreamConnectionTermination = 1 << 14,
    UpstreamRetryLimitExceeded = 1 << 15,
    StreamIdleTimeout = 1 << 16,
    InvalidEnvoyRequestHeaders = 1 << 17,
    DownstreamProtocolError = 1 << 18,
    UpstreamMaxStreamDurationReached = 1 << 19,
    NoFilterConfigFound = 1 << 20,
    DurationTimeout = 1 << 21,
    UpstreamProtocolError = 1 << 22,
    NoClusterFound = 1 << 23,
    OverloadManager = 1 << 24,
    DownstreamRemoteReset = 1 << 25,
}

impl Flag {
    /// Every flag with its short and its long name, in the order in which Envoy prints them.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 26] = [
        (Self::FailedLocalHealthCheck, "LH", "FailedLocalHealthCheck"),
        (Self::NoHealthyUpstream, "UH", "NoHealthyUpstream"),
        (Self::UpstreamRequestTimeout, "UT", "UpstreamRequestTimeout"),
        (Self::LocalReset, "LR", "LocalReset"),
        (Self::UpstreamRemoteReset, "UR", "UpstreamRemoteReset"),
        (Self::UpstreamConnectionFailure, "UF", "UpstreamConnectionFailure"),
        (Self::UpstreamConnectionTermination, "UC", "UpstreamConnectionTermination"),
        (Self::UpstreamOverflow, "UO", "UpstreamOverflow"),
        (Self::NoRouteFound, "NR", "NoRouteFound"),
        (Self::DelayInjected, "DI", "DelayInjected"),
        (Self::FaultInjected, "FI", "FaultInjected"),
        (Self::RateLimited, "RL", "RateLimited"),
        (Self::UnauthorizedExternalService, "UAEX", "UnauthorizedExternalService"),
        (Self::RateLimitServiceError, "RLSE", "RateLimitServiceError"),
        (Self::DownstreamConnectionTermination, "DC", "DownstreamConnectionTermination"),
        (Self::UpstreamRetryLimitExceeded, "URX", "UpstreamRetryLimitExceeded"),
        (Self::StreamIdleTimeout, "SI", "StreamIdleTimeout"),
        (Self::InvalidEnvoyRequestHeaders, "IH", "InvalidEnvoyRequestHeaders"),
        (Self::DownstreamProtocolError, "DPE", "DownstreamProtocolError"),
        (Self::UpstreamMaxStreamDurationReached, "UMSDR", "UpstreamMaxStreamDurationReached"),
        (Self::NoFilterConfigFound, "NFCF", "NoFilterConfigFound"),
        (Self::DurationTimeout, "DT", "DurationTimeout"),
        (Self::UpstreamProtocolError, "UPE", "UpstreamProtocolError"),
        (Self::NoClusterFound, "NC", "NoClusterFound"),
        (Self::OverloadManager, "OM", "OverloadManagerTerminated"),
        (Self::DownstreamRemoteReset, "DR", "DownstreamRemoteReset"),
    ];
}

impl Flags {
    pub(crate) fn set(&mut self, flag: Flag) {
        self.0 |= flag as u32;
    }

    pub(crate) fn has(self, flag: Flag) -> bool {
        self.0 & flag as u32 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The short names joined by commas, or `-` for none (`%RESPONSE_FLAGS%`).
    pub(crate) fn short(self) -> String {
        let set = Flag::ALL.iter().filter(|(flag, ..)| self.has(*flag));
        let names: Vec<_> = set.map(|(_, short, _)| *short).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(",") }
    }
}

/// Why an attempt ended before its response was whole: Envoy's reasons for a stream reset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The connection could not be made; the string is the operating system's
    /// (`Connection refused`).
    #[error("remote connection failure: {0}")]
    ConnectFailure(String),
    /// No connection within the cluster's `connect_timeout`.
    #[error("connection timeout")]
    ConnectTimeout,
    /// A circuit breaker of the cluster refused the attempt.
    #[error("overflow")]
    Overflow,
    /// The connection ended before the response did.
    #[error("connection termination")]
    ConnectionTermination,
    /// The upstream reset the stream (HTTP/2 RST_STREAM).
    #[error("remote reset")]
    RemoteReset,
    /// The upstream says that it has not processed the stream (REFUSED_STREAM, or above the last stream of a GOAWAY).
    #[error("remote refused stream reset")]
    RemoteRefused,
    /// The upstream's protocol cannot carry the request: the client's error, not the upstream's.
    #[error("request cannot be sent")]
    Unsendable,
    /// The upstream broke its protocol; the string says how.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
}

impl UpstreamError {
    /// The reason in Envoy's words, as its local replies end with it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::ConnectFailure(_) | Self::ConnectTimeout => "remote connection failure",
            Self::Overflow => "overflow",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefused => "remote refused stream reset",
            Self::Unsendable => "request cannot be sent",
            Self::Protocol(_) => "protocol error",
        }
    }

    pub(crate) fn flag(&self) -> Flag {
        match self {
            Self::ConnectFailure(_) | Self::ConnectTimeout => Flag::UpstreamConnectionFailure,
            Self::Overflow => Flag::UpstreamOverflow,
            Self::ConnectionTermination => Flag::UpstreamConnectionTermination,
            Self::RemoteReset | Self::RemoteRefused => Flag::UpstreamRemoteReset,
            Self::Unsendable => Flag::DownstreamProtocolError,
            Self::Protocol(_) => Flag::UpstreamProtocolError,
        }
    }

    /// The status of the local reply that reports this error when no response has begun.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Unsendable => 400,
            Self::Protocol(_) => 502,
            Self::ConnectFailure(_)
            | Self::ConnectTimeout
            | Self::Overflow
            | Self::ConnectionTermination
            | Self::RemoteReset
            | Self::RemoteRefused => 503,
        }
    }

    /// What `%UPSTREAM_TRANSPORT_FAILURE_REASON%` says; empty unless the connection could not be made.
    pub(crate) fn transport_failure(&self) -> String {
        match self {
            Self::ConnectFailure(text) => format!("delayed connect error: {text}"),
            _ => String::new(),
        }
    }
}

/// Why a downstream stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DownstreamError {
    /// The client closed or reset its connection.
    #[error("downstream remote disconnect")]
    Disconnected,
    /// The client reset this stream (HTTP/2 RST_STREAM).
    #[error("downstream remote reset")]
    Reset,
    /// The client broke the protocol in the middle of a request; the string is Envoy's response
    /// code detail.
    #[error("downstream protocol error: {0}")]
    Protocol(&'static str),
    /// The trailers are over the limits; the string is Envoy's response code detail.
    #[error("request trailers too large: {0}")]
    TooLarge(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_envoys_order_and_a_dash_for_none() {
        let mut flags = Flags::default();
        assert_eq!(flags.short(), "-");
        flags.set(Flag::UpstreamRetryLimitExceeded);
        flags.set(Flag::UpstreamConnectionFailure);
        assert_eq!(flags.short(), "UF,URX");
    }
}
