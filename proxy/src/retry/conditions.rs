//! The conditions of `retry_on`, `x-envoy-retry-on` and `x-envoy-retry-grpc-on`, as a set.

use std::ops::BitOr;

use crate::error::UpstreamError;

/// A set of conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOn(u32);

/// gRPC's codes that can be conditions, with their bits.
const GRPC: [(&str, u32, RetryOn); 5] = [
    ("cancelled", 1, RetryOn(1 << 16)),
    ("deadline-exceeded", 4, RetryOn(1 << 17)),
    ("resource-exhausted", 8, RetryOn(1 << 18)),
    ("internal", 13, RetryOn(1 << 19)),
    ("unavailable", 14, RetryOn(1 << 20)),
];

impl RetryOn {
    pub(crate) const FIVE_XX: Self = Self(1);
    pub(crate) const GATEWAY_ERROR: Self = Self(1 << 1);
    pub(crate) const RESET: Self = Self(1 << 2);
    pub(crate) const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    pub(crate) const CONNECT_FAILURE: Self = Self(1 << 4);
    pub(crate) const ENVOY_RATELIMITED: Self = Self(1 << 5);
    pub(crate) const RETRIABLE_4XX: Self = Self(1 << 6);
    pub(crate) const REFUSED_STREAM: Self = Self(1 << 7);
    pub(crate) const RETRIABLE_STATUS_CODES: Self = Self(1 << 8);
    pub(crate) const RETRIABLE_HEADERS: Self = Self(1 << 9);
    /// Known, and never met without HTTP/3.
    pub(crate) const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);

    const HTTP: [(&str, Self); 11] = [
        ("5xx", Self::FIVE_XX),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("envoy-ratelimited", Self::ENVOY_RATELIMITED),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("http3-post-connect-failure", Self::HTTP3_POST_CONNECT_FAILURE),
    ];

    /// The conditions of HTTP in a comma-separated list; other names have no effect, as in Envoy (a
    /// lint warns about them).
    pub(crate) fn of_http(text: &str) -> Self {
        names(text).fold(Self::default(), |on, name| {
            Self::HTTP.iter().find(|(known, _)| *known == name).map_or(on, |(_, condition)| on | *condition)
        })
    }

    /// The conditions of gRPC in a comma-separated list.
    pub(crate) fn of_grpc(text: &str) -> Self {
        names(text).fold(Self::default(), |on, name| {
            GRPC.iter().find(|(known, ..)| *known == name).map_or(on, |(.., condition)| on | *condition)
        })
    }

    /// The conditions of a `retry_on`, of either kind.
    pub(crate) fn parse(text: &str) -> Self {
        Self::of_http(text) | Self::of_grpc(text)
    }

    pub(crate) fn has(self, condition: Self) -> bool {
        self.0 & condition.0 != 0
    }

    pub(crate) fn has_grpc(self) -> bool {
        GRPC.iter().any(|(.., condition)| self.has(*condition))
    }

    /// Whether a response with this gRPC code is retried.
    pub(crate) fn covers_grpc(self, code: u32) -> bool {
        GRPC.iter().any(|(_, known, condition)| *known == code && self.has(*condition))
    }

    /// Whether a response with this status is retried, independent of its headers.
    pub(crate) fn covers_status(self, status: u16) -> bool {
        (self.has(Self::FIVE_XX) && (500..600).contains(&status))
            || (self.has(Self::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (self.has(Self::RETRIABLE_4XX) && status == 409)
    }

    /// Whether an error is among the conditions; `sent` when something of the request may have reached an upstream.
    pub(crate) fn covers_error(self, error: &UpstreamError, sent: bool) -> bool {
        match error {
            // What a circuit breaker refused is not helped by more of it.
            UpstreamError::Overflow | UpstreamError::Unsendable => false,
            UpstreamError::ConnectFailure(_) | UpstreamError::ConnectTimeout => {
                self.has(Self::CONNECT_FAILURE) || self.covers_timeout(sent)
            }
            UpstreamError::RemoteRefused => self.has(Self::REFUSED_STREAM) || self.covers_timeout(sent),
            UpstreamError::RemoteReset
            | UpstreamError::ConnectionTermination
            | UpstreamError::Protocol(_) => self.covers_timeout(sent),
        }
    }

    /// Whether an attempt without a response in time is retried: the proxy resets it.
    pub(crate) fn covers_timeout(self, sent: bool) -> bool {
        self.has(Self::RESET | Self::FIVE_XX | Self::GATEWAY_ERROR)
            || (self.has(Self::RESET_BEFORE_REQUEST) && !sent)
    }
}

impl BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}
