//! The connection manager's rules for response headers: hop-by-hop headers go, `date`, `server` and `via` are set.

use std::cell::{Cell, RefCell};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Rules, ServerHeader};
use crate::message::{Direction, FieldValueBuf, Known, ResponseHead};
use crate::time::http_date;

/// The value of a `date` header, made once a second.
#[derive(Debug, Default)]
pub(crate) struct DateCache {
    second: Cell<u64>,
    value: RefCell<FieldValueBuf>,
}

impl DateCache {
    fn set(&self, head: &mut ResponseHead, wall: SystemTime) {
        let second = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if second != self.second.get() || self.value.borrow().is_empty() {
            self.value.replace(FieldValueBuf::lossy(&http_date(second)));
            self.second.set(second);
        }
        head.fields.push(Known::Date, &*self.value.borrow());
    }
}

/// Removes from an upstream's response what concerns its connection only.
pub(crate) fn hop_by_hop(head: &mut ResponseHead) {
    super::remove_nominated(&mut head.fields);
    for name in
        [Known::Connection, Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding, Known::Upgrade]
    {
        head.fields.remove(name);
    }
    head.fields.join_repeated(Direction::Response);
}

/// The headers of every response, local replies included. The date stays that of the host or the
/// configuration.
pub(crate) fn set_own(head: &mut ResponseHead, rules: &Rules, dates: &DateCache, wall: SystemTime) {
    if !head.fields.contains(Known::Date) {
        dates.set(head, wall);
    }
    match &rules.server {
        ServerHeader::Overwrite(name) => head.fields.set(Known::Server, name),
        ServerHeader::AppendIfAbsent(name) if !head.fields.contains(Known::Server) => {
            head.fields.push(Known::Server, name);
        }
        ServerHeader::AppendIfAbsent(_) | ServerHeader::PassThrough => {}
    }
    if !rules.via.is_empty() {
        head.fields.append(Known::Via, ", ", &rules.via);
    }
}
