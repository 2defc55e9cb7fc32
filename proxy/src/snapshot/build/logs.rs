//! Header formats, access logs and local replies from their messages.
//!
//! Part of `build`; calls `format`, `access_log`, `local_reply`.

use std::sync::Arc;

use xds::envoy::config::accesslog::v3::AccessLog as Message;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::LocalReplyConfig;

use super::Cx;
use super::place::Place;
use crate::access_log::AccessLog;
use crate::format::Format;
use crate::local_reply::Mappers;

/// The format of a header value.
pub fn header_format(_text: &str) -> Result<Format, String> {
    Ok(Format::default())
}

/// The access logs of a listener, connection manager or `tcp_proxy`.
pub fn access_logs(_cx: &mut Cx<'_>, _place: &Place<'_>, _messages: &[Message]) -> Vec<Arc<AccessLog>> {
    Vec::new()
}

/// What local replies look like.
pub fn local_reply(_cx: &mut Cx<'_>, _place: &Place<'_>, _message: Option<&LocalReplyConfig>) -> Mappers {
    Mappers::default()
}
