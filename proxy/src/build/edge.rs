//! What the edge does unless its file says otherwise (Envoy, "Configuring Envoy as an edge proxy").

use xds::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::PathWithEscapedSlashesAction;

use crate::memory::{self, Cgroup};

/// The kind of proxy that a configuration is built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavor {
    /// Envoy's defaults: clients are other proxies, or the application.
    #[default]
    Sidecar,
    /// Clients come from outside: nothing that they say is trusted, and every resource has a limit.
    Edge,
}

/// Connections that a listener of the edge has open at most; fewer where the container's memory does
/// not hold as many.
const MAX_CONNECTIONS: u32 = 10_000;

impl Flavor {
    pub(crate) fn max_connections(self) -> Option<u32> {
        match self {
            Self::Sidecar => None,
            Self::Edge => Some(within(Cgroup::of_process().and_then(|cgroup| cgroup.limit()))),
        }
    }

    /// The connection manager with this flavor's defaults in place of what its file leaves out.
    pub(crate) fn complete(self, message: &HttpConnectionManager) -> HttpConnectionManager {
        let mut message = message.clone();
        if self == Self::Sidecar {
            return message;
        }
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        // The peer's address is the client's; what it says in `x-forwarded-*` and `x-envoy-*` is replaced or removed.
        message.use_remote_address.get_or_insert(true);
        message.normalize_path.get_or_insert(true);
        if message.path_with_escaped_slashes_action
            == PathWithEscapedSlashesAction::ImplementationSpecificDefault as i32
        {
            message.path_with_escaped_slashes_action =
                PathWithEscapedSlashesAction::UnescapeAndRedirect as i32;
        }
        message.request_headers_timeout.get_or_insert(seconds(10));
        let common = message.common_http_protocol_options.get_or_insert_default();
        if common.headers_with_underscores_action == HeadersWithUnderscoresAction::Allow as i32 {
            common.headers_with_underscores_action = HeadersWithUnderscoresAction::RejectRequest as i32;
        }
        let http2 = message.http2_protocol_options.get_or_insert_default();
        http2.max_concurrent_streams.get_or_insert(100);
        http2.initial_stream_window_size.get_or_insert(64 << 10);
        http2.initial_connection_window_size.get_or_insert(1 << 20);
        message
    }
}

/// The connections of one listener under a limit of memory.
fn within(limit: Option<u64>) -> u32 {
    limit.map_or(MAX_CONNECTIONS, |limit| memory::connections_within(limit).min(MAX_CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_the_edge_follow_the_memory_of_its_container() {
        assert_eq!(within(None), MAX_CONNECTIONS);
        assert_eq!(within(Some(1 << 40)), MAX_CONNECTIONS);
        for mebibytes in [16, 28, 40, 64, 128] {
            let limit = mebibytes << 20;
            let needed = memory::BASE + u64::from(within(Some(limit))) * memory::IDLE_CONNECTION;
            assert!(needed < limit, "{mebibytes} MiB: {needed}");
        }
    }

    #[test]
    fn the_edge_trusts_no_client_and_keeps_what_the_file_says() {
        let mut message =
            HttpConnectionManager { normalize_path: Some(false), ..HttpConnectionManager::default() };
        let edge = Flavor::Edge.complete(&message);
        assert_eq!(edge.use_remote_address, Some(true));
        assert_eq!(edge.normalize_path, Some(false));
        assert_eq!(edge.http2_protocol_options.and_then(|options| options.max_concurrent_streams), Some(100));
        message = Flavor::Sidecar.complete(&message);
        assert_eq!(message.use_remote_address, None);
    }
}
