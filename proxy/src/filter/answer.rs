//! The connection manager's rules for the fields of an answer: hop-by-hop fields go, `date`, `server` and `via` are set.

use super::rules::{Rules, ServerHeader};
use crate::message::{Known, ResponseHead};

/// Applies the rules to the head of an answer.
pub fn response(head: &mut ResponseHead, rules: &Rules, date: &[u8]) {
    if let Some(named) = head.fields.get(Known::Connection).map(<[u8]>::to_ascii_lowercase) {
        let mut names = named
            .split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty())
            .peekable();
        if names.peek().is_some() {
            let names: Vec<&[u8]> = names.collect();
            head.fields.retain(|name, _| !names.contains(&name.as_bytes()));
        }
    }
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
    head.fields.set(Known::Date, date);
    match &rules.server {
        ServerHeader::Overwrite(name) => head.fields.set(Known::Server, name.as_bytes()),
        ServerHeader::AppendIfAbsent(name) if !head.fields.contains(Known::Server) => {
            head.fields.push(Known::Server, name.as_bytes());
        }
        ServerHeader::AppendIfAbsent(_) | ServerHeader::PassThrough => {}
    }
    if !rules.via.is_empty() {
        let mut value = head.fields.get_all(Known::Via).collect::<Vec<_>>().join(&b","[..]);
        if !value.is_empty() {
            value.extend_from_slice(b", ");
        }
        value.extend_from_slice(rules.via.as_bytes());
        head.fields.set(Known::Via, &value);
    }
}
