//! Every error that can end a list or a watch, and what to do about it.
//!
//! The end of a watch in good order is none: the API server ends each when its time is over.

use std::time::Duration;

/// Why the conversation with the API server ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("cannot reach the API server: {0}")]
    Unreachable(String),
    #[error("no usable token: {0}; check kubernetes.token.path")]
    NoToken(String),
    #[error("no {0} from the API server in time")]
    Stalled(&'static str),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error(
        "401: the API server does not accept the token; check kubernetes.token.path and that the service account exists"
    )]
    Unauthorized,
    #[error(
        "403: {0}; grant `list` and `watch` on endpointslices (discovery.k8s.io) to the service account of sds"
    )]
    Forbidden(String),
    #[error("429: the API server asks for fewer requests")]
    Throttled {
        /// From `Retry-After`.
        wait: Option<Duration>,
    },
    #[error("{status}: {message}")]
    Refused { status: u16, message: String },
    /// Not a failure: the API server keeps a limited history.
    #[error("410: the version to go on from is too old")]
    Expired,
    #[error("not understood: {0}")]
    Garbage(String),
    #[error(
        "version {now} came after {before}: the API server went back in time, as after a restored backup"
    )]
    WentBack { before: String, now: String },
    #[error("{0} slices differed from the API server's list although the watch was in order")]
    Drift(usize),
}

/// What to do before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remedy {
    /// What we know cannot be continued from: list everything again, for this reason.
    pub relist: Option<Reason>,
    /// Make new connections, and read the certificate authority again.
    pub reconnect: bool,
    /// The first time since the last progress, do it without waiting.
    pub at_once: bool,
}

/// Why everything is listed: the label of `sds_relists_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Start,
    Expired,
    WentBack,
    Garbage,
    /// Several watches in a row told us nothing.
    Fruitless,
    Audit,
}

impl WatchError {
    pub(super) fn remedy(&self) -> Remedy {
        let (relist, reconnect, at_once) = match self {
            Self::Unreachable(_) | Self::Stalled(_) | Self::Broken(_) => (None, true, false),
            Self::Unauthorized => (None, true, true),
            Self::NoToken(_) | Self::Forbidden(_) | Self::Throttled { .. } | Self::Refused { .. } => {
                (None, false, false)
            }
            Self::Expired => (Some(Reason::Expired), false, false),
            Self::Garbage(_) => (Some(Reason::Garbage), true, false),
            Self::WentBack { .. } => (Some(Reason::WentBack), true, true),
            Self::Drift(_) => (None, true, true),
        };
        Remedy { relist, reconnect, at_once }
    }

    /// The label of `sds_watch_errors_total`; none for what happens to a healthy watch too.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Expired => return None,
            Self::Unreachable(_) => "unreachable",
            Self::NoToken(_) => "no_token",
            Self::Stalled(_) => "stalled",
            Self::Broken(_) => "broken",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Throttled { .. } => "throttled",
            Self::Refused { .. } => "refused",
            Self::Garbage(_) => "garbage",
            Self::WentBack { .. } => "went_back",
            Self::Drift(_) => "drift",
        })
    }
}

impl Remedy {
    /// After a watch that ended in good order.
    pub(super) const NONE: Self = Self { relist: None, reconnect: false, at_once: true };
}

impl Reason {
    pub const ALL: [Self; 6] =
        [Self::Start, Self::Expired, Self::WentBack, Self::Garbage, Self::Fruitless, Self::Audit];

    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Expired => "expired",
            Self::WentBack => "went_back",
            Self::Garbage => "garbage",
            Self::Fruitless => "fruitless",
            Self::Audit => "audit",
        }
    }
}

/// Whether version `a` is certainly older than `b`. Kubernetes compares them as numbers; others are never older.
pub(super) fn older(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a < b,
        _ => false,
    }
}
