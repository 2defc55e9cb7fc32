//! The admin interface: where it listens and what it logs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use xds::envoy::config::bootstrap::v3::Bootstrap;

use super::place::{Code, Place};
use super::{Cx, logs, values};
use crate::access_log::{AccessLog, LogFormat};

/// Where the admin interface listens; `None` without one.
pub(super) fn address(cx: &mut Cx<'_>, bootstrap: &Bootstrap) -> Option<SocketAddr> {
    let admin = bootstrap.admin.as_ref()?;
    let place = Place::ROOT.field("admin");
    let place = place.field("address");
    // Without an address there is no admin page, as in Envoy.
    admin.address.as_ref()?;
    values::only_tcp(cx, &place, admin.address.as_ref());
    let address = match values::ip_address(cx, &place, admin.address.as_ref()) {
        Ok(address) => address,
        Err(text) => {
            if let Some(text) = text {
                let message = format!("`{text}` is not an IP address: the admin page is bound to one");
                cx.error(&place.field("socket_address").field("address"), Code::BadValue, message);
            }
            return None;
        }
    };
    if address.ip().is_unspecified() {
        let text =
            format!("the admin page is open to everybody who reaches {address}: it can stop this proxy");
        cx.error(&place.field("socket_address").field("address"), Code::OpenAdmin, text).suggest("127.0.0.1");
    }
    Some(address)
}

/// `access_log`, and the older `access_log_path`. A path that cannot be opened is no reason not to start.
pub(super) fn access_log(cx: &mut Cx<'_>, bootstrap: &Bootstrap) -> Vec<Arc<AccessLog>> {
    let Some(admin) = &bootstrap.admin else { return Vec::new() };
    let mut all = logs::access_logs(cx, &Place::ROOT.field("admin"), &admin.access_log);
    let path = &admin.access_log_path;
    if let Some(writer) = cx.logs.filter(|_| !path.is_empty() && path != "/dev/null") {
        match writer.open(Path::new(path)) {
            Ok(sink) => all.push(Arc::new(AccessLog::new(None, LogFormat::default(), sink))),
            Err(error) => tracing::warn!("{error}: the admin interface goes without this access log"),
        }
    }
    all
}
