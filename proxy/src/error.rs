//! What can go wrong on the way of a request, whose fault it is, and which of Envoy's response flags says so.
//!
//! Fault, status, text and flag are computed by exhaustive matches, so that no error can exist without them.
//! Only `local_reply` turns errors into responses.

/// Envoy's response flags: what the proxy has to say about an exchange, several at a time, in the
/// order in which they were set. Five bits for each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u64);

/// One response flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flag {
    FailedLocalHealthCheck = 1,
    NoHealthyUpstream = 2,
    UpstreamRequestTimeout = 3,
    LocalReset = 4,
    UpstreamRemoteReset = 5,
    UpstreamConnectionFailure = 6,
    UpstreamConnectionTermination = 7,
    UpstreamOverflow = 8,
    NoRouteFound = 9,
    DelayInjected = 10,
    FaultInjected = 11,
    RateLimited = 12,
    UnauthorizedExternalService = 13,
    RateLimitServiceError = 14,
    DownstreamConnectionTermination = 15,
    UpstreamRetryLimitExceeded = 16,
    StreamIdleTimeout = 17,
    InvalidEnvoyRequestHeaders = 18,
    DownstreamProtocolError = 19,
    UpstreamMaxStreamDurationReached = 20,
    NoFilterConfigFound = 21,
    DurationTimeout = 22,
    UpstreamProtocolError = 23,
    NoClusterFound = 24,
    OverloadManager = 25,
    DownstreamRemoteReset = 26,
}

impl Flag {
    /// Every flag with its short and its long name.
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
    const BITS: u32 = 5;
    /// Twelve of them; there are never that many.
    const MOST: u32 = u64::BITS / Self::BITS;

    pub(crate) fn set(&mut self, flag: Flag) {
        let set = u64::BITS.saturating_sub(self.0.leading_zeros()).div_ceil(Self::BITS);
        if !self.has(flag) && set < Self::MOST {
            self.0 |= u64::from(flag as u8) << (set * Self::BITS);
        }
    }

    pub(crate) fn has(self, flag: Flag) -> bool {
        self.numbers().any(|number| number == u64::from(flag as u8))
    }

    /// The flags with their names.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'static (Flag, &'static str, &'static str)> {
        const ALL: &[(Flag, &str, &str)] = &Flag::ALL;
        self.numbers().filter_map(|number| ALL.iter().find(|(flag, ..)| u64::from(*flag as u8) == number))
    }

    fn numbers(self) -> impl Iterator<Item = u64> {
        let mask = (1 << Self::BITS) - 1;
        (0..Self::MOST).map(move |at| self.0 >> (at * Self::BITS) & mask).take_while(|number| *number != 0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The short names joined by commas, or `-` for none (`%RESPONSE_FLAGS%`).
    pub(crate) fn short(self) -> String {
        let names: Vec<_> = self.iter().map(|(_, short, _)| *short).collect();
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
    fn flags_print_in_the_order_of_their_events_and_a_dash_for_none() {
        let mut flags = Flags::default();
        assert_eq!(flags.short(), "-");
        flags.set(Flag::UpstreamRetryLimitExceeded);
        flags.set(Flag::UpstreamConnectionFailure);
        flags.set(Flag::UpstreamRetryLimitExceeded);
        assert_eq!(flags.short(), "URX,UF");
        Flag::ALL.iter().for_each(|(flag, ..)| flags.set(*flag));
        assert!(flags.short().starts_with("URX,UF,LH,"));
    }
}
