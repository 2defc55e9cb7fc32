//! The connection manager's rules for the fields of an answer: hop-by-hop fields go, `date`, `server` and `via` are set.

use super::rules::{Rules, ServerHeader};
use crate::message::{FieldValue, Known, ResponseHead};

/// Applies the rules to the head of an answer.
pub fn response(head: &mut ResponseHead, rules: &Rules, date: &[u8]) {
    super::edge::remove_nominated(&mut head.fields);
    for name in
        [Known::Connection, Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding, Known::Upgrade]
    {
        head.fields.remove(name);
    }
    head.fields.join_repeated();
    set_own(head, rules, date);
}

/// What every answer carries, invented ones included.
pub fn set_own(head: &mut ResponseHead, rules: &Rules, date: &[u8]) {
    if let Ok(date) = FieldValue::new(date) {
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
