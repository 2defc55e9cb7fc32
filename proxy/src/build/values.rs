//! Small messages -> our values: durations, addresses, texts from files, header changes.

use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use xds::envoy::config::core::v3::address::Address as AddressKind;
use xds::envoy::config::core::v3::data_source::Specifier;
use xds::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use xds::envoy::config::core::v3::socket_option::{SocketState, Value};
use xds::envoy::config::core::v3::{Address, DataSource, HeaderValueOption, SocketAddress, SocketOption};

use super::place::{Code, Finding, Place};
use super::{Cx, Files};
use crate::format::{Format, Problem};
use crate::headers::{Addition, AppendAction, Changes, Mutations};
use crate::memory::SocketBuffers;
use crate::message::{Authority, FieldNameBuf, FieldValueBuf};

/// A duration, if it is present and valid.
pub(super) fn duration(value: Option<&prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(*value?).ok()
}

/// A limit: absent is the default, zero is none.
pub(super) fn limit(value: Option<&prost_types::Duration>, default: Option<Duration>) -> Option<Duration> {
    match duration(value) {
        None => default,
        Some(Duration::ZERO) => None,
        Some(limit) => Some(limit),
    }
}

/// The socket address in a message, as it is written.
pub(super) fn socket_address<'a>(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    address: Option<&'a Address>,
) -> Option<&'a SocketAddress> {
    match address.and_then(|address| address.address.as_ref()) {
        Some(AddressKind::SocketAddress(address)) => Some(address),
        Some(_) => {
            cx.error(place, Code::NotImplemented, "only socket addresses are implemented");
            None
        }
        None => {
            cx.error(place, Code::MissingField, "an address is needed").suggest("add `socket_address`");
            None
        }
    }
}

/// Refuses UDP, which only DNS servers may have.
pub(super) fn only_tcp(cx: &mut Cx<'_>, place: &Place<'_>, address: Option<&Address>) {
    let udp = matches!(
        address.and_then(|address| address.address.as_ref()),
        Some(AddressKind::SocketAddress(address)) if address.protocol == Protocol::Udp as i32
    );
    if udp {
        let place = place.field("socket_address");
        cx.error(&place.field("protocol"), Code::NotImplemented, "UDP is not implemented here")
            .suggest("TCP");
    }
}

/// An address that must be an IP.
pub(super) fn ip_address(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    address: Option<&Address>,
) -> Result<SocketAddr, Option<String>> {
    let Some(socket) = socket_address(cx, place, address) else { return Err(None) };
    match socket.address.parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, port(socket))),
        Err(_) => Err(Some(socket.address.clone())),
    }
}

/// Whether an IPv6 socket serves IPv4 as well.
pub(super) fn ipv4_compat(address: Option<&Address>) -> bool {
    let kind = address.and_then(|address| address.address.as_ref());
    matches!(kind, Some(AddressKind::SocketAddress(address)) if address.ipv4_compat)
}

/// The port; the reader has checked its bounds.
pub(super) fn port(address: &SocketAddress) -> u16 {
    match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).unwrap_or_default(),
        _ => 0,
    }
}

/// The bytes of a data source; a file is read now.
pub(super) fn data(cx: &mut Cx<'_>, place: &Place<'_>, source: &DataSource) -> Vec<u8> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => text.clone().into_bytes(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
        Some(Specifier::Filename(path)) => {
            let path = Path::new(path);
            let read = cx.files.map_or_else(|| Files::default().read(path), |files| files.read(path));
            let bytes = read.unwrap_or_else(|error| {
                let path = path.display();
                cx.error(&place.field("filename"), Code::BadValue, format!("cannot read `{path}`: {error}"));
                Vec::new()
            });
            bytes.hash(&mut cx.digest);
            bytes
        }
        Some(Specifier::EnvironmentVariable(name)) => {
            let value = std::env::var(name).unwrap_or_default();
            if value.is_empty() {
                let place = place.field("environment_variable");
                cx.error(&place, Code::BadValue, format!("the variable `{name}` is not set"));
            }
            value.into_bytes()
        }
        None => Vec::new(),
    }
}

/// The header changes of one level, as all levels spell them.
pub(super) struct Level<'m> {
    pub request_add: &'m [HeaderValueOption],
    pub request_remove: &'m [String],
    pub response_add: &'m [HeaderValueOption],
    pub response_remove: &'m [String],
}

/// Builds a `Level` from any message that has the four fields.
macro_rules! level {
    ($message:expr) => {
        $crate::build::values::Level {
            request_add: &$message.request_headers_to_add,
            request_remove: &$message.request_headers_to_remove,
            response_add: &$message.response_headers_to_add,
            response_remove: &$message.response_headers_to_remove,
        }
    };
}
pub(super) use level;

/// The header changes of one level.
pub(super) fn mutations(cx: &mut Cx<'_>, place: &Place<'_>, level: &Level<'_>) -> Mutations {
    Mutations {
        request: Changes {
            add: additions(cx, place, "request_headers_to_add", level.request_add),
            remove: removals(cx, place, "request_headers_to_remove", level.request_remove),
        },
        response: Changes {
            add: additions(cx, place, "response_headers_to_add", level.response_add),
            remove: removals(cx, place, "response_headers_to_remove", level.response_remove),
        },
    }
}

/// A list of fields to add.
pub(super) fn additions(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    field: &str,
    options: &[HeaderValueOption],
) -> Vec<Addition> {
    let each = options.iter().enumerate();
    each.filter_map(|(at, option)| addition(cx, &place.item(field, at), option)).collect()
}

fn addition(cx: &mut Cx<'_>, place: &Place<'_>, option: &HeaderValueOption) -> Option<Addition> {
    let header = option.header.as_ref()?;
    let place_of_header = place.field("header");
    if fixed(&header.key) {
        let message = format!("`{}` cannot be changed by a header rule", header.key);
        cx.error(&place_of_header.field("key"), Code::BadValue, message)
            .suggest("rewrite the path or host with `prefix_rewrite` or `host_rewrite_literal`");
        return None;
    }
    let value = match Format::parse_header(&header.value) {
        Ok(value) => value,
        Err(problem) => {
            cx.no_format(&place_of_header.field("value"), problem);
            return None;
        }
    };
    let action =
        HeaderAppendAction::try_from(option.append_action).unwrap_or(HeaderAppendAction::AppendIfExistsOrAdd);
    let action = match (option.append, action) {
        (Some(false), HeaderAppendAction::AppendIfExistsOrAdd)
        | (_, HeaderAppendAction::OverwriteIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        (_, HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::AppendIfExistsOrAdd,
        (_, HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
        (_, HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
    };
    let name = header_name(cx, &place_of_header.field("key"), &header.key)?;
    Some(Addition { name, value, action, keep_empty: option.keep_empty_value })
}

/// A list of headers to remove.
pub(super) fn removals(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    field: &str,
    names: &[String],
) -> Vec<FieldNameBuf> {
    for (at, name) in names.iter().enumerate().filter(|(_, name)| fixed(name)) {
        let message = format!("`{name}` cannot be removed: every request needs it");
        cx.error(&place.item(field, at), Code::BadValue, message);
    }
    // A name that is no token is in no request.
    names.iter().filter_map(|name| FieldNameBuf::new(name).ok()).collect()
}

/// A configured name.
fn header_name(cx: &mut Cx<'_>, place: &Place<'_>, name: &str) -> Option<FieldNameBuf> {
    let built = FieldNameBuf::new(name);
    built.map_err(|_| cx.error(place, Code::BadValue, format!("{name:?} is not a header name"))).ok()
}

/// A configured value of a header.
pub(super) fn header_value(cx: &mut Cx<'_>, place: &Place<'_>, text: &str) -> FieldValueBuf {
    FieldValueBuf::new(text).unwrap_or_else(|_| {
        cx.error(
            place,
            Code::BadValue,
            format!("{text:?} has a control character, which no header may hold"),
        );
        FieldValueBuf::default()
    })
}

/// A configured host.
pub(super) fn authority(cx: &mut Cx<'_>, place: &Place<'_>, text: &str) -> Authority {
    Authority::new(text).unwrap_or_else(|_| {
        cx.error(place, Code::BadValue, format!("{text:?} is not a host with or without a port"));
        Authority::default()
    })
}

fn fixed(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

/// `socket_options` below `place`; anything but a size of a buffer is refused.
pub(super) fn socket_buffers(cx: &mut Cx<'_>, place: &Place<'_>, options: &[SocketOption]) -> SocketBuffers {
    /// What the kernel takes.
    const MOST: i64 = i32::MAX as i64 / 2;
    /// Linux's numbers, whatever the system is: the file is written for Linux.
    const SOL_SOCKET: i64 = 1;
    const SO_SNDBUF: i64 = 7;
    const SO_RCVBUF: i64 = 8;
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

impl Cx<'_> {
    /// Refuses a format.
    pub(super) fn no_format(&mut self, place: &Place<'_>, problem: Problem) {
        match problem {
            Problem::Wrong(text) => self.error(place, Code::BadValue, text),
            Problem::NotImplemented(text) => self.error(place, Code::NotImplemented, text),
        };
    }

    pub(crate) fn error(
        &mut self,
        place: &Place<'_>,
        kind: Code,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.findings.add(place, kind, message)
    }
}
