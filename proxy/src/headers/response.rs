//! The connection manager's rules for response headers: hop-by-hop headers go, `date`, `server` and `via` are set.

use super::{Rules, ServerHeader};
use crate::message::{Direction, FieldValue, Known, ResponseHead};

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
pub(crate) fn set_own(head: &mut ResponseHead, rules: &Rules, date: &[u8]) {
    if let Ok(date) = FieldValue::new(date)
        && !head.fields.contains(Known::Date)
    {
        head.fields.set(Known::Date, date);
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
