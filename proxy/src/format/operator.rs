//! The operators of formats: what there is, and how `%OPERATOR(ARGUMENT):LENGTH%` is read, with what is wrong where it is not one.

use super::names::{ABSENT, NOT_IMPLEMENTED, OTHERS};
use super::time::TimeFormat;
use crate::message::{Known, Name};

/// One `%…%`, ready to be evaluated.
#[derive(Clone, Debug)]
pub(super) enum Operator {
    Request(Header),
    Response(Header),
    Trailer(Header),
    QueryParam {
        name: Box<str>,
        limit: Option<usize>,
    },
    Path {
        query: bool,
        source: PathSource,
    },
    Query,
    Time {
        format: TimeFormat,
        emit: bool,
    },
    Duration {
        from: Point,
        to: Point,
        unit: Unit,
    },
    GrpcStatus(GrpcStyle),
    /// A key of the route's metadata: the filter's name, then the path in it.
    RouteMetadata {
        path: Vec<Box<str>>,
        limit: Option<usize>,
    },
    /// Known when the format is parsed.
    Constant(Box<str>),
    /// `%RESPONSE_CODE_DETAILS%`, with spaces as they are or as underscores.
    Details {
        keep_spaces: bool,
    },
    Plain(Plain),
    /// Envoy has it; here there never is a value.
    Absent,
}

/// A header, the one to take when it is missing, and how much of its value.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub first: HeaderName,
    pub second: Option<HeaderName>,
    pub limit: Option<usize>,
}

/// A header or a pseudo-header, looked up once.
#[derive(Clone, Debug)]
pub(super) enum HeaderName {
    Known(Known),
    Other(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathSource {
    /// The path as it is sent upstream.
    Current,
    /// `x-envoy-original-path`.
    Original,
    OriginalOrCurrent,
}

/// A moment of an exchange, in the order in which they usually come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    RequestBegin,
    RequestEnd,
    /// A connection is there, or cannot be made.
    ConnectionReady,
    UpstreamRequestBegin,
    UpstreamRequestEnd,
    UpstreamResponseBegin,
    UpstreamResponseEnd,
    ResponseEnd,
    /// Of the exchange or of the TCP connection.
    End,
    /// A moment that nothing records.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcStyle {
    Camel,
    Snake,
    Number,
}

macro_rules! plain {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// The operators that take neither argument nor length.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Plain { $($variant),+ }

        pub(super) const PLAIN: &[(&str, Plain)] = &[$(($name, Plain::$variant)),+];
    };
}

plain! {
    RequestHeadersBytes = "REQUEST_HEADERS_BYTES",
    ResponseHeadersBytes = "RESPONSE_HEADERS_BYTES",
    ResponseTrailersBytes = "RESPONSE_TRAILERS_BYTES",
    BytesReceived = "BYTES_RECEIVED",
    BytesSent = "BYTES_SENT",
    Protocol = "PROTOCOL",
    UpstreamProtocol = "UPSTREAM_PROTOCOL",
    ResponseCode = "RESPONSE_CODE",
    ResponseFlags = "RESPONSE_FLAGS",
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
    UpstreamHost = "UPSTREAM_HOST",
    UpstreamHostName = "UPSTREAM_HOST_NAME",
    UpstreamHostNameWithoutPort = "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    UpstreamCluster = "UPSTREAM_CLUSTER",
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT",
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    DownstreamDirectLocalAddress = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    DownstreamDirectLocalAddressWithoutPort = "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamDirectLocalPort = "DOWNSTREAM_DIRECT_LOCAL_PORT",
    ConnectionId = "CONNECTION_ID",
    StreamId = "STREAM_ID",
    UniqueId = "UNIQUE_ID",
    RouteName = "ROUTE_NAME",
    VirtualClusterName = "VIRTUAL_CLUSTER_NAME",
    AccessLogType = "ACCESS_LOG_TYPE",
    LocalReplyBody = "LOCAL_REPLY_BODY",
}

impl Operator {
    /// Whether anything in the value may come from a client or an upstream. Only what the configuration fixes does not.
    pub(super) fn may_carry_client_bytes(&self) -> bool {
        !matches!(self, Self::Constant(_) | Self::Time { .. } | Self::Duration { .. } | Self::Absent)
            && !self.is_number()
    }

    /// Whether the value is a number, which JSON shows without quotes.
    pub(super) fn is_number(&self) -> bool {
        match self {
            Self::Duration { .. } | Self::GrpcStatus(GrpcStyle::Number) => true,
            Self::Plain(plain) => matches!(
                plain,
                Plain::RequestHeadersBytes
                    | Plain::ResponseHeadersBytes
                    | Plain::ResponseTrailersBytes
                    | Plain::BytesReceived
                    | Plain::BytesSent
                    | Plain::ResponseCode
                    | Plain::UpstreamLocalPort
                    | Plain::UpstreamRemotePort
                    | Plain::UpstreamRequestAttemptCount
                    | Plain::DownstreamRemotePort
                    | Plain::DownstreamDirectRemotePort
                    | Plain::DownstreamLocalPort
                    | Plain::DownstreamDirectLocalPort
                    | Plain::ConnectionId
            ),
            _ => false,
        }
    }
}

/// The parts of `%NAME(ARGUMENT):LIMIT%` and what comes after it.
#[derive(Debug)]
pub(super) struct Command<'t> {
    pub name: &'t str,
    /// Between the parentheses; empty when there are none.
    pub argument: &'t str,
    pub limit: Option<usize>,
    pub rest: &'t str,
}

/// Cuts the operator that `text` (which begins with `%`) begins with; the argument ends where the operator can end.
pub(super) fn split(text: &str) -> Option<Command<'_>> {
    let body = text.strip_prefix('%')?;
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = body.find(|c| !is_name(c)).filter(|end| *end > 0)?;
    let (name, after) = body.split_at(end);
    let Some(inside) = after.strip_prefix('(') else {
        let (limit, rest) = split_end(after)?;
        return Some(Command { name, argument: "", limit, rest });
    };
    inside.match_indices(')').find_map(|(at, _)| {
        let (limit, rest) = split_end(inside.get(at + 1..)?)?;
        Some(Command { name, argument: inside.get(..at)?, limit, rest })
    })
}

/// `%` or `:LIMIT%`, and what comes after it.
fn split_end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (digits, rest) = text.strip_prefix(':')?.split_once('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A limit beyond any value is no limit.
    Some((Some(digits.parse().unwrap_or(usize::MAX)), rest))
}

/// Whether Envoy has this and petmesh does not.
pub(super) fn is_not_implemented(command: &Command<'_>) -> bool {
    NOT_IMPLEMENTED.contains(&command.name) || (command.name, command.argument) == ("QUERY_PARAMS", "DECODED")
}

impl Operator {
    pub(super) fn new(command: &Command<'_>) -> Result<Self, String> {
        let name = command.name;
        if let Some((_, plain)) = PLAIN.iter().find(|(known, _)| *known == name) {
            nothing(command)?;
            return Ok(Self::Plain(*plain));
        }
        if ABSENT.contains(&name) {
            return Ok(Self::Absent);
        }
        match name {
            "REQ" | "REQUEST_HEADER" => Ok(Self::Request(Header::new(command)?)),
            "RESP" | "RESPONSE_HEADER" => Ok(Self::Response(Header::new(command)?)),
            "TRAILER" | "RESPONSE_TRAILER" => Ok(Self::Trailer(Header::new(command)?)),
            "QUERY_PARAM" => Ok(Self::QueryParam { name: required(command)?.into(), limit: command.limit }),
            "QUERY_PARAMS" => query(command),
            "PATH" => path(command),
            "START_TIME" => time(command, false),
            "EMIT_TIME" => time(command, true),
            "GRPC_STATUS" => grpc_status(command),
            "GRPC_STATUS_NUMBER" => nothing(command).map(|()| Self::GrpcStatus(GrpcStyle::Number)),
            "METADATA" => metadata(command),
            "ENVIRONMENT" => {
                let value = std::env::var(required(command)?).unwrap_or_else(|_| "-".to_owned());
                Ok(Self::Constant(cut(&value, command.limit).into()))
            }
            "HOSTNAME" => nothing(command).map(|()| Self::Constant(hostname().into())),
            "RESPONSE_CODE_DETAILS" => {
                no_limit(command)?;
                Ok(Self::Details { keep_spaces: command.argument == "ALLOW_WHITESPACES" })
            }
            "COMMON_DURATION" => common_duration(command),
            // Flags of filters, and names of internal listeners: without them Envoy prints an empty text.
            "CUSTOM_FLAGS"
            | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"
            | "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" => Ok(Self::Constant("".into())),
            _ => {
                let (from, to) = duration(name).ok_or_else(|| unknown(name))?;
                nothing(command)?;
                Ok(Self::Duration { from, to, unit: Unit::Milliseconds })
            }
        }
    }
}

impl Header {
    fn new(command: &Command<'_>) -> Result<Self, String> {
        let argument = required(command)?.to_ascii_lowercase();
        let mut names = argument.split('?');
        let (first, second) = (names.next().unwrap_or_default(), names.next());
        if names.next().is_some() {
            let name = command.name;
            return Err(format!(
                "`%{name}({argument})%` names more than one alternative header; one `?` is allowed"
            ));
        }
        if let Some(bad) = argument.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!(
                "`%{}({argument})%` has the character {bad:?}, which no header name has",
                command.name
            ));
        }
        let name = |text: &str| match Name::of(text.as_bytes()) {
            Name::Known(known) => HeaderName::Known(known),
            Name::Other(_) => HeaderName::Other(text.into()),
        };
        Ok(Self { first: name(first), second: second.map(name), limit: command.limit })
    }
}

impl Point {
    fn of(name: &str) -> Self {
        match name {
            "DS_RX_BEG" => Self::RequestBegin,
            "DS_RX_END" => Self::RequestEnd,
            "US_TX_BEG" => Self::UpstreamRequestBegin,
            "US_TX_END" => Self::UpstreamRequestEnd,
            "US_RX_BEG" => Self::UpstreamResponseBegin,
            "US_RX_END" => Self::UpstreamResponseEnd,
            "DS_TX_END" => Self::ResponseEnd,
            _ => Self::Unknown,
        }
    }
}

fn duration(name: &str) -> Option<(Point, Point)> {
    match name {
        "DURATION" => Some((Point::RequestBegin, Point::End)),
        "REQUEST_DURATION" => Some((Point::RequestBegin, Point::RequestEnd)),
        "REQUEST_TX_DURATION" => Some((Point::RequestBegin, Point::UpstreamRequestEnd)),
        "RESPONSE_DURATION" => Some((Point::RequestBegin, Point::UpstreamResponseBegin)),
        "RESPONSE_TX_DURATION" => Some((Point::UpstreamResponseBegin, Point::ResponseEnd)),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Some((Point::RequestBegin, Point::ConnectionReady)),
        _ => None,
    }
}

fn common_duration(command: &Command<'_>) -> Result<Operator, String> {
    no_limit(command)?;
    let argument = required(command)?;
    let mut parts = argument.split(':');
    let (Some(from), Some(to), unit, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(format!(
            "`%COMMON_DURATION({argument})%` must have the form START:END or START:END:UNIT"
        ));
    };
    let unit = match unit.unwrap_or("ms") {
        "ms" => Unit::Milliseconds,
        "us" => Unit::Microseconds,
        "ns" => Unit::Nanoseconds,
        other => {
            return Err(format!(
                "the unit `{other}` of `%COMMON_DURATION({argument})%` is none of ms, us, ns"
            ));
        }
    };
    Ok(Operator::Duration { from: Point::of(from), to: Point::of(to), unit })
}

fn time(command: &Command<'_>, emit: bool) -> Result<Operator, String> {
    no_limit(command)?;
    Ok(Operator::Time { format: TimeFormat::parse(command.argument), emit })
}

fn grpc_status(command: &Command<'_>) -> Result<Operator, String> {
    no_limit(command)?;
    let style = match command.argument {
        "" | "CAMEL_STRING" => GrpcStyle::Camel,
        "SNAKE_STRING" => GrpcStyle::Snake,
        "NUMBER" => GrpcStyle::Number,
        other => {
            return Err(format!(
                "`{other}` in `%GRPC_STATUS({other})%` is none of CAMEL_STRING, SNAKE_STRING, NUMBER"
            ));
        }
    };
    Ok(Operator::GrpcStatus(style))
}

fn metadata(command: &Command<'_>) -> Result<Operator, String> {
    let argument = required(command)?;
    let mut parts = argument.split(':').map(Box::from);
    match parts.next().as_deref() {
        Some("ROUTE") => Ok(Operator::RouteMetadata { path: parts.collect(), limit: command.limit }),
        Some(
            "CLUSTER" | "LISTENER" | "VIRTUAL_HOST" | "DYNAMIC" | "UPSTREAM_HOST" | "LISTENER_FILTER_CHAIN",
        ) => Ok(Operator::Absent),
        _ => Err(format!(
            "`%METADATA({argument})%` must begin with where the metadata is: ROUTE, CLUSTER, LISTENER, DYNAMIC, …"
        )),
    }
}

fn query(command: &Command<'_>) -> Result<Operator, String> {
    match command.argument {
        "" | "ORIG" => Ok(Operator::Query),
        other => Err(format!("`{other}` in `%QUERY_PARAMS({other})%` is not ORIG")),
    }
}

fn path(command: &Command<'_>) -> Result<Operator, String> {
    let (query, source) = command.argument.split_once(':').unwrap_or((command.argument, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(format!("`{other}` in `%PATH({})%` is none of WQ, NQ", command.argument)),
    };
    Ok(Operator::Path { query, source: path_source(command, source)? })
}

fn path_source(command: &Command<'_>, text: &str) -> Result<PathSource, String> {
    match text {
        "" | "ORIG_OR_PATH" => Ok(PathSource::OriginalOrCurrent),
        "ORIG" => Ok(PathSource::Original),
        "PATH" => Ok(PathSource::Current),
        other => Err(format!(
            "`{other}` in `%{}({})%` is none of ORIG, PATH, ORIG_OR_PATH",
            command.name, command.argument
        )),
    }
}

fn nothing(command: &Command<'_>) -> Result<(), String> {
    if command.argument.is_empty() && command.limit.is_none() {
        return Ok(());
    }
    Err(format!("`%{}%` takes no parameters and no length", command.name))
}

fn no_limit(command: &Command<'_>) -> Result<(), String> {
    match command.limit {
        None => Ok(()),
        Some(_) => Err(format!("`%{}%` does not allow a length", command.name)),
    }
}

fn required<'t>(command: &Command<'t>) -> Result<&'t str, String> {
    match command.argument {
        "" => Err(format!("`%{}%` needs a parameter in parentheses", command.name)),
        argument => Ok(argument),
    }
}

fn unknown(name: &str) -> String {
    let names =
        PLAIN.iter().map(|(name, _)| *name).chain(OTHERS.iter().copied()).chain(ABSENT.iter().copied());
    let nearest = names.min_by_key(|known| distance(name, known)).unwrap_or("REQ");
    if distance(name, nearest) * 2 > name.len() {
        return format!("unknown operator `%{name}%`");
    }
    format!("unknown operator `%{name}%`; did you mean `%{nearest}%`?")
}

/// How many letters must be added, removed or replaced (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, a) in left.bytes().enumerate() {
        let mut diagonal = at;
        let mut before = at + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(right.bytes()) {
            let next = (*cell + 1).min(before + 1).min(diagonal + usize::from(a != b));
            diagonal = std::mem::replace(cell, next);
            before = next;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// At most that many bytes, on a character border.
pub(super) fn cut(text: &str, limit: Option<usize>) -> &str {
    let Some(limit) = limit else { return text };
    let end = text
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= limit)
        .last()
        .unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn hostname() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned())
}
