//! The values of operators: what each reads from an exchange.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Instant;

use super::Context;
use super::operator::{GrpcStyle, Header, HeaderName, Operator, PathSource, Plain, Point, Unit, cut};
use crate::error::{Flag, Flags};
use crate::message::grammar::{decode_percent, split_query, uuid, without_port};
use crate::message::{Fields, Known, RequestHead, ResponseHead, work};
use crate::stream_info::{LogMoment, StreamInfo};

impl Operator {
    /// Appends the value; false, and nothing appended, when there is none.
    pub(super) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Request(header) => header.write(out, |name| request_value(context.request?, name)),
            Self::Response(header) => header.write(out, |name| response_value(context.response?, name)),
            Self::Trailer(header) => {
                header.write(out, |name| field(context.response_trailers?, name).map(Cow::Borrowed))
            }
            Self::QueryParam { name, limit } => write_query_parameter(context.request, name, *limit, out),
            Self::Path { query, source } => put(
                path(context.request, *source).map(|path| if *query { path } else { split_query(path).0 }),
                out,
            ),
            Self::Query => {
                let path = path(context.request, PathSource::OriginalOrCurrent);
                put(path.and_then(|path| split_query(path).1).filter(|query| !query.is_empty()), out)
            }
            Self::Time { format, emit } => {
                format.write(if *emit { crate::time::wall() } else { context.info.start_time }, out);
                true
            }
            Self::Duration { from, to, unit } => write_duration(context.info, *from, *to, *unit, out),
            Self::GrpcStatus(style) => write_grpc_status(context, *style, out),
            Self::RouteMetadata { path, limit } => write_metadata(context.info, path, *limit, out),
            Self::Constant(text) => put(Some(text.as_bytes()), out),
            Self::Details { keep_spaces } => write_words(&context.info.details, *keep_spaces, out),
            Self::Plain(plain) => plain.write(context, out),
            Self::Absent => false,
        }
    }
}

impl Operator {
    /// The value where it is more than a string, which JSON shows as it is.
    pub(super) fn structured<'c>(&self, context: &Context<'c>) -> Option<&'c serde_json::Value> {
        let Self::RouteMetadata { path, limit: None } = self else { return None };
        metadata(context.info, path).filter(|value| !value.is_null() && !value.is_string())
    }
}

impl Plain {
    fn write(self, context: &Context<'_>, out: &mut Vec<u8>) -> bool {
        let info = context.info;
        let upstream = &info.upstream;
        match self {
            Self::RequestHeadersBytes => number(context.request.map_or(0, request_bytes), out),
            Self::ResponseHeadersBytes => number(context.response.map_or(0, response_bytes), out),
            Self::ResponseTrailersBytes => {
                number(context.response_trailers.map_or(0, |fields| fields.byte_size() as u64), out)
            }
            Self::BytesReceived => number(info.bytes_received, out),
            Self::BytesSent => number(info.bytes_sent, out),
            Self::Protocol => put((!info.tcp).then(|| info.version.as_str().as_bytes()), out),
            Self::UpstreamProtocol => put(upstream.version.map(|version| version.as_str().as_bytes()), out),
            Self::ResponseCode => number(u64::from(info.status), out),
            Self::ResponseFlags => write_flags(info.flags, |(_, short, _)| short, out),
            Self::ResponseFlagsLong => write_flags(info.flags, |(.., long)| long, out),
            Self::UpstreamCluster | Self::UpstreamClusterRaw => text(info.cluster.as_deref(), out),
            Self::UpstreamHostName if let Some(name) = &upstream.hostname => text(Some(name), out),
            Self::UpstreamHostNameWithoutPort if let Some(name) = &upstream.hostname => {
                put(Some(without_port(name.as_bytes())), out)
            }
            Self::UpstreamHost | Self::UpstreamHostName => address(upstream.host, out),
            Self::UpstreamHostNameWithoutPort => ip(upstream.host, out),
            Self::UpstreamRemoteAddress => address(upstream.remote(), out),
            Self::UpstreamRemoteAddressWithoutPort => ip(upstream.remote(), out),
            Self::UpstreamRemotePort => port(upstream.remote(), out),
            Self::UpstreamLocalAddress => address(upstream.local, out),
            Self::UpstreamLocalAddressWithoutPort => ip(upstream.local, out),
            Self::UpstreamLocalPort => port(upstream.local, out),
            Self::UpstreamTransportFailureReason => write_words(&upstream.transport_failure, false, out),
            Self::UpstreamRequestAttemptCount => number(u64::from(info.attempts), out),
            Self::DownstreamRemoteAddress => address(Some(info.remote), out),
            Self::DownstreamRemoteAddressWithoutPort => ip(Some(info.remote), out),
            Self::DownstreamRemotePort => port(Some(info.remote), out),
            Self::DownstreamDirectRemoteAddress => address(Some(info.connection.peer), out),
            Self::DownstreamDirectRemoteAddressWithoutPort => ip(Some(info.connection.peer), out),
            Self::DownstreamDirectRemotePort => port(Some(info.connection.peer), out),
            Self::DownstreamLocalAddress | Self::DownstreamDirectLocalAddress => {
                address(Some(info.connection.local), out)
            }
            Self::DownstreamLocalAddressWithoutPort | Self::DownstreamDirectLocalAddressWithoutPort => {
                ip(Some(info.connection.local), out)
            }
            Self::DownstreamLocalPort | Self::DownstreamDirectLocalPort => {
                port(Some(info.connection.local), out)
            }
            Self::ConnectionId => number(info.connection.id, out),
            Self::StreamId if info.tcp => put(Some(&connection_uuid(info.connection.id)), out),
            Self::StreamId => put(context.request.and_then(|head| head.fields.get(Known::XRequestId)), out),
            Self::UniqueId => put(Some(&uuid([fastrand::u64(..), fastrand::u64(..)])), out),
            Self::RouteName => text(info.route_name.as_deref().filter(|name| !name.is_empty()), out),
            Self::VirtualClusterName => text(info.virtual_cluster.as_deref(), out),
            Self::AccessLogType => text(Some(log_type(info)), out),
            Self::LocalReplyBody => text(Some(context.local_reply_body), out),
        }
    }
}

/// The same for every line of a connection, and for no other of any process.
fn connection_uuid(id: u64) -> [u8; 36] {
    static RANDOM: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    uuid([0, 1].map(|part| RANDOM.hash_one((id, part))))
}

fn log_type(info: &StreamInfo) -> &'static str {
    match (info.tcp, info.moment) {
        (true, LogMoment::End) => "TcpConnectionEnd",
        (true, LogMoment::UpstreamConnected) => "TcpUpstreamConnected",
        (true, LogMoment::Periodic) => "TcpPeriodic",
        (false, LogMoment::End) => "DownstreamEnd",
        (false, LogMoment::UpstreamConnected) => "UpstreamPoolReady",
        (false, LogMoment::Periodic) => "DownstreamPeriodic",
    }
}

impl Header {
    fn write<'v>(&self, out: &mut Vec<u8>, get: impl Fn(&HeaderName) -> Option<Cow<'v, [u8]>>) -> bool {
        let Some(value) = get(&self.first).or_else(|| self.second.as_ref().and_then(&get)) else {
            return false;
        };
        out.extend_from_slice(value.get(..self.limit.unwrap_or(usize::MAX)).unwrap_or(&value));
        true
    }
}

fn request_value<'v>(head: &'v RequestHead, name: &HeaderName) -> Option<Cow<'v, [u8]>> {
    let value = match name {
        HeaderName::Known(Known::Host) => head.get(":authority"),
        HeaderName::Known(known) => head.fields.get(*known),
        HeaderName::Other(name) => head.get(name),
    };
    value.map(Cow::Borrowed)
}

fn response_value<'v>(head: &'v ResponseHead, name: &HeaderName) -> Option<Cow<'v, [u8]>> {
    match name {
        HeaderName::Other(name) if &**name == ":status" => {
            Some(Cow::Owned(itoa::Buffer::new().format(head.status).as_bytes().to_vec()))
        }
        _ => field(&head.fields, name).map(Cow::Borrowed),
    }
}

fn field<'v>(fields: &'v Fields, name: &HeaderName) -> Option<&'v [u8]> {
    match name {
        HeaderName::Known(known) => fields.get(*known),
        HeaderName::Other(name) => fields.get(&**name),
    }
}

/// As Envoy counts: names and values, pseudo-headers included.
fn request_bytes(head: &RequestHead) -> u64 {
    let pseudo = [":authority", ":path", ":method", ":scheme"]
        .into_iter()
        .filter_map(|name| head.get(name).map(|value| name.len() + value.len()));
    let pseudo: usize = pseudo.sum();
    (pseudo + head.fields.byte_size()) as u64
}

fn response_bytes(head: &ResponseHead) -> u64 {
    (":status200".len() + head.fields.byte_size()) as u64
}

fn path(request: Option<&RequestHead>, source: PathSource) -> Option<&[u8]> {
    let request = request?;
    let original = || request.fields.get(Known::XEnvoyOriginalPath);
    let current = || Some(&*request.path).filter(|path| !path.is_empty());
    match source {
        PathSource::Current => current(),
        PathSource::Original => original(),
        PathSource::OriginalOrCurrent => original().or_else(current),
    }
}

fn write_query_parameter(
    request: Option<&RequestHead>,
    name: &str,
    limit: Option<usize>,
    out: &mut Vec<u8>,
) -> bool {
    let query = path(request, PathSource::Current).and_then(|path| split_query(path).1).unwrap_or_default();
    work::step(query.len());
    let found = query.split(|byte| *byte == b'&').find_map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let key = decode_percent(parts.next()?);
        (key == name.as_bytes()).then(|| decode_percent(parts.next().unwrap_or_default()))
    });
    put(found.as_deref().map(|value| value.get(..limit.unwrap_or(usize::MAX)).unwrap_or(value)), out)
}

fn moment(info: &StreamInfo, point: Point) -> Option<Instant> {
    match point {
        Point::RequestBegin => Some(info.start),
        Point::RequestEnd => info.request_end,
        Point::ConnectionReady => info.upstream.ready,
        Point::UpstreamRequestBegin => info.upstream.request_begin,
        Point::UpstreamRequestEnd => info.upstream.request_sent,
        Point::UpstreamResponseBegin => info.response_start,
        Point::UpstreamResponseEnd => info.upstream.response_end,
        // Of a TCP connection, or a response that broke off, there is an end and no last byte.
        Point::ResponseEnd => info.end.filter(|_| info.whole),
        Point::End => info.end,
        Point::Unknown => None,
    }
}

fn write_duration(info: &StreamInfo, from: Point, to: Point, unit: Unit, out: &mut Vec<u8>) -> bool {
    let (Some(begin), Some(end)) = (moment(info, from), moment(info, to)) else { return false };
    let Some(passed) = end.checked_duration_since(begin) else { return false };
    // Events of one moment have their order, too.
    if passed.is_zero() && from > to {
        return false;
    }
    let value = match unit {
        Unit::Milliseconds => passed.as_millis(),
        Unit::Microseconds => passed.as_micros(),
        Unit::Nanoseconds => passed.as_nanos(),
    };
    number(u64::try_from(value).unwrap_or(u64::MAX), out)
}

fn write_grpc_status(context: &Context<'_>, style: GrpcStyle, out: &mut Vec<u8>) -> bool {
    if !context.request.is_some_and(RequestHead::is_grpc) {
        return false;
    }
    let in_trailers = context.response_trailers.and_then(|fields| fields.get(Known::GrpcStatus));
    let in_head = || context.response.and_then(|head| head.fields.get(Known::GrpcStatus));
    let sent = in_trailers
        .or_else(in_head)
        .map(|text| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()));
    let Some(code) = sent.unwrap_or_else(|| Some(crate::grpc::status_of_http(context.info.status))) else {
        return text(Some("InvalidCode"), out);
    };
    let name = crate::grpc::status_names(code);
    match (style, name) {
        (GrpcStyle::Camel, Some((camel, _))) => text(Some(camel), out),
        (GrpcStyle::Snake, Some((_, snake))) => text(Some(snake), out),
        (GrpcStyle::Number, _) | (_, None) => number(u64::from(code), out),
    }
}

fn metadata<'i>(info: &'i StreamInfo, path: &[Box<str>]) -> Option<&'i serde_json::Value> {
    path.iter().try_fold(info.route_metadata.as_deref()?, |value, key| value.get(&**key))
}

fn write_metadata(info: &StreamInfo, path: &[Box<str>], limit: Option<usize>, out: &mut Vec<u8>) -> bool {
    match metadata(info, path) {
        None | Some(serde_json::Value::Null) => false,
        Some(serde_json::Value::String(value)) => text(Some(cut(value, limit)), out),
        Some(value) => {
            let mut all = Vec::new();
            super::json::write_json(value, &mut all);
            text(Some(cut(&String::from_utf8_lossy(&all), limit)), out)
        }
    }
}

/// Text in which spaces become underscores, so that it stays one column of a log line.
fn write_words(words: &str, keep_spaces: bool, out: &mut Vec<u8>) -> bool {
    if words.is_empty() {
        return false;
    }
    out.extend(words.bytes().map(|byte| if byte == b' ' && !keep_spaces { b'_' } else { byte }));
    true
}

fn write_flags(
    flags: Flags,
    name: impl Fn(&(Flag, &'static str, &'static str)) -> &'static str,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    for entry in flags.iter() {
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(name(entry).as_bytes());
    }
    // A dash that is a value: Envoy prints it in headers too.
    out.len() > start || put(Some(b"-"), out)
}

fn put(value: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    value.map(|value| out.extend_from_slice(value)).is_some()
}

fn text(value: Option<&str>, out: &mut Vec<u8>) -> bool {
    put(value.map(str::as_bytes), out)
}

fn number(value: u64, out: &mut Vec<u8>) -> bool {
    put(Some(itoa::Buffer::new().format(value).as_bytes()), out)
}

fn address(value: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
    value.is_some_and(|address| write!(out, "{address}").is_ok())
}

fn ip(value: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
    value.is_some_and(|address| write!(out, "{}", address.ip()).is_ok())
}

fn port(value: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
    value.is_some_and(|address| number(u64::from(address.port()), out))
}
