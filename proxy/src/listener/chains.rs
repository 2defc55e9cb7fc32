//! A connection in its filter chain: past the gates, to the last filter.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Open;
use super::gate::{self, Admission};
use crate::exchange::ConnectionContext;
use crate::local::Local;
use crate::snapshot::{FilterChain, Listener, ListenerKind, TcpEnd};
use crate::stream_info::ConnectionInfo;
use crate::{connection, tcp};

/// Serves a connection, or closes it when a gate says so.
pub(super) fn serve(
    local: &Rc<Local>,
    listener: &Arc<Listener>,
    chain: &Arc<FilterChain>,
    stream: TcpStream,
    info: ConnectionInfo,
    open: Open,
) {
    let info = Rc::new(info);
    let (generation, direction) = (&chain.generation, listener.direction);
    let places = match admit(local, chain) {
        Admission::Accept(places) => places,
        Admission::Close(delay, places) => {
            if let ListenerKind::Tcp(end) = &chain.kind
                && let TcpEnd::Proxy(proxy) = &**end
            {
                tcp::refused(local, proxy, info);
            }
            local.serve(generation, direction, |_| async move {
                if let Some(delay) = delay {
                    tokio::time::sleep(delay).await;
                }
                drop((stream, places, open));
            });
            return;
        }
    };
    match &chain.kind {
        ListenerKind::Http(manager) => local.serve(generation, direction, |drain| {
            let most = manager.timeouts.max_connection_duration;
            let context = ConnectionContext {
                last: most.map(|most| crate::time::now() + most),
                listener: Arc::clone(listener),
                manager: Arc::clone(manager),
                info,
                local: Rc::clone(local),
                drain,
            };
            async move {
                connection::run(stream, Rc::new(context)).await;
                drop((places, open));
            }
        }),
        ListenerKind::Tcp(end) => {
            let (worker, end) = (Rc::clone(local), Arc::clone(end));
            let client = tcp::Client { stream, front: Bytes::new(), info };
            local.serve(generation, direction, |_| async move {
                tcp::run(&worker, &end, client).await;
                drop((places, open));
            });
        }
    }
}

fn admit(local: &Local, chain: &FilterChain) -> Admission {
    if chain.gates.is_empty() {
        return Admission::Accept(Vec::new());
    }
    gate::ask(&chain.gates, local.shard, crate::time::now())
}
