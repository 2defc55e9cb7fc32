//! What is known of one exchange as it goes on: the record that formats, access logs and header formatters read.
//!
//! The connection and the exchange fill it; formats read it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::error::Flags;
use crate::message::Version;

/// What is known of a downstream connection; shared by its exchanges.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// Unique in this process.
    pub id: u64,
    /// The peer of the socket.
    pub peer: SocketAddr,
    /// The address that the peer connected to.
    pub local: SocketAddr,
    /// The transport is TLS.
    pub tls: bool,
}

/// One exchange: from its request head to its last byte.
#[derive(Clone, Debug)]
pub(crate) struct StreamInfo {
    pub connection: Rc<ConnectionInfo>,
    /// The client as far as it can be trusted: the peer, or an address of `x-forwarded-for` (Envoy's remote address).
    pub remote: SocketAddr,
    pub version: Version,
    /// Wall time at the first byte of the request (`%START_TIME%`).
    pub start_time: SystemTime,
    pub start: Instant,
    /// The request's last byte was received.
    pub request_end: Option<Instant>,
    /// The first byte of the upstream's response was received.
    pub response_start: Option<Instant>,
    /// The whole response was sent, or given up.
    pub end: Option<Instant>,
    /// The client has the whole response.
    pub whole: bool,
    /// Body bytes received from the client (`%BYTES_RECEIVED%`).
    pub bytes_received: u64,
    /// Body bytes sent to the client (`%BYTES_SENT%`).
    pub bytes_sent: u64,
    pub flags: Flags,
    /// The status sent, 0 before that.
    pub status: u16,
    /// Envoy's response code detail (`via_upstream`, `route_not_found`, …).
    pub details: std::borrow::Cow<'static, str>,
    pub route_name: Option<Arc<str>>,
    pub virtual_host: Option<Arc<str>>,
    /// The first virtual cluster of the virtual host that matched (`%VIRTUAL_CLUSTER_NAME%`).
    pub virtual_cluster: Option<Arc<str>>,
    /// The route's `metadata.filter_metadata` (`%METADATA(ROUTE:…)%`).
    pub route_metadata: Option<Arc<serde_json::Value>>,
    pub cluster: Option<Arc<str>>,
    /// A connection of `tcp_proxy`, not an HTTP exchange.
    pub tcp: bool,
    /// Which line of a log this is for, where a connection has several.
    pub moment: LogMoment,
    pub upstream: UpstreamInfo,
    /// A health check, as the filter of that name says (`not_health_check_filter`).
    pub health_check: bool,
    /// Attempts made, the first included (`%UPSTREAM_REQUEST_ATTEMPT_COUNT%`).
    pub attempts: u32,
}

/// When a line is logged (`%ACCESS_LOG_TYPE%`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogMoment {
    #[default]
    End,
    UpstreamConnected,
    Periodic,
}

/// The upstream side of the latest attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamInfo {
    pub host: Option<SocketAddr>,
    /// Our own end of the connection.
    pub local: Option<SocketAddr>,
    pub version: Option<Version>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: String,
    /// The endpoint's name when it was resolved from one (`%UPSTREAM_HOST_NAME%`).
    pub hostname: Option<Rc<str>>,
    /// When a connection was there, or could not be made.
    pub ready: Option<Instant>,
    /// When the request began to be sent; not of TCP.
    pub request_begin: Option<Instant>,
    /// When the last byte of the request had been sent upstream.
    pub request_sent: Option<Instant>,
    /// When the last byte of the response had come.
    pub response_end: Option<Instant>,
}

impl UpstreamInfo {
    /// The other end of the connection, if there is one.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.host.filter(|_| self.local.is_some())
    }
}

impl StreamInfo {
    /// A new exchange on a connection, beginning at `start`.
    pub(crate) fn new(
        connection: Rc<ConnectionInfo>,
        version: Version,
        start_time: SystemTime,
        start: Instant,
    ) -> Self {
        Self {
            remote: connection.peer,
            connection,
            version,
            start_time,
            start,
            request_end: None,
            response_start: None,
            end: None,
            whole: false,
            bytes_received: 0,
            bytes_sent: 0,
            flags: Flags::default(),
            status: 0,
            details: std::borrow::Cow::Borrowed(""),
            route_name: None,
            virtual_host: None,
            virtual_cluster: None,
            route_metadata: None,
            cluster: None,
            tcp: false,
            moment: LogMoment::End,
            upstream: UpstreamInfo::default(),
            health_check: false,
            attempts: 0,
        }
    }
}
