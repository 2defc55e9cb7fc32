//! Socket options -> sizes of the kernel's buffers.

use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::envoy::config::core::v3::SocketOption;
use xds::envoy::config::core::v3::socket_option::{SocketState, Value};

use super::Cx;
use super::place::{Code, Place};
use crate::memory::SocketBuffers;

/// Linux's numbers, whatever the system is: the file is written for Linux.
const SOL_SOCKET: i64 = 1;
const SO_SNDBUF: i64 = 7;
const SO_RCVBUF: i64 = 8;

/// What the kernel takes.
const MOST: i64 = i32::MAX as i64 / 2;

/// `upstream_bind_config` of the cluster manager.
pub(super) fn of_upstreams(cx: &mut Cx<'_>, bootstrap: &Bootstrap) -> SocketBuffers {
    let config = bootstrap.cluster_manager.as_ref().and_then(|manager| manager.upstream_bind_config.as_ref());
    let options = config.map(|config| &*config.socket_options).unwrap_or_default();
    buffers(cx, &Place::ROOT.field("cluster_manager").field("upstream_bind_config"), options)
}

/// `socket_options` below `place`; anything but a size of a buffer is refused.
pub(super) fn buffers(cx: &mut Cx<'_>, place: &Place<'_>, options: &[SocketOption]) -> SocketBuffers {
    let mut buffers = SocketBuffers::default();
    for (at, option) in options.iter().enumerate() {
        let place = place.item("socket_options", at);
        let size = match option.value {
            Some(Value::IntValue(size)) if (1..=MOST).contains(&size) => u32::try_from(size).ok(),
            _ => {
                let text = format!("a buffer has between 1 and {MOST} bytes");
                cx.error(&place.field("int_value"), Code::BadValue, text);
                continue;
            }
        };
        if option.state != SocketState::StatePrebind as i32 {
            cx.error(
                &place.field("state"),
                Code::NotImplemented,
                "buffers are sized before a socket is bound",
            )
            .suggest("STATE_PREBIND");
        }
        match (option.level, option.name) {
            (SOL_SOCKET, SO_RCVBUF) => buffers.receive = size,
            (SOL_SOCKET, SO_SNDBUF) => buffers.send = size,
            (level, name) => {
                let text = format!("the socket option {name} of level {level} is not implemented");
                cx.error(&place.field("name"), Code::NotImplemented, text)
                    .suggest("level 1 with name 7 (SO_SNDBUF) or 8 (SO_RCVBUF)");
            }
        }
    }
    buffers
}
