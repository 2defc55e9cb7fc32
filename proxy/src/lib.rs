//! The sidecar proxy: reads Envoy's configuration, carries every call.
