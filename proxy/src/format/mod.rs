//! Envoy's `%OPERATOR%` formats: parsed once, evaluated for logs, header values and bodies.
//!
//! A value that does not exist prints as `-` in a log line and as nothing in a header
//! (`omit_empty`); the operators are in `operator`, more names in `names`, their values in `value`, times in `time`,
//! formats that make JSON in `json`.

use crate::message::{FieldValue, Fields, RequestHead, ResponseHead};
use crate::stream_info::StreamInfo;

mod json;
mod names;
mod operator;
mod time;
mod value;

pub(crate) use json::JsonFormat;
use operator::Operator;

/// The access log format of a log that names none (Envoy's).
pub(crate) const DEFAULT_LOG_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Why a text is no format: what is wrong, where, and the nearest name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Wrong(String),
    /// Envoy would take it.
    NotImplemented(String),
}

impl Problem {
    /// The same with more behind it.
    fn and(self, more: &str) -> Self {
        match self {
            Self::Wrong(text) => Self::Wrong(text + more),
            Self::NotImplemented(text) => Self::NotImplemented(text + more),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(text) | Self::NotImplemented(text) => f.write_str(text),
        }
    }
}

/// What a format may read. Parts that do not exist (yet) print as `-`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub info: &'a StreamInfo,
    pub request: Option<&'a RequestHead>,
    pub response: Option<&'a ResponseHead>,
    pub response_trailers: Option<&'a Fields>,
    /// The text of the local reply, for `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
}

impl<'a> Context<'a> {
    /// What is known before there are heads.
    pub(crate) fn new(info: &'a StreamInfo) -> Self {
        Self { info, request: None, response: None, response_trailers: None, local_reply_body: "" }
    }
}

/// A parsed format.
#[derive(Clone, Debug, Default)]
pub(crate) struct Format {
    pieces: Vec<Piece>,
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<[u8]>),
    Operator(Operator),
}

impl Format {
    /// A format whose missing values print as `-`, as in log lines.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, tail) = rest.split_at(at);
            literal.extend_from_slice(before.as_bytes());
            if let Some(after) = tail.strip_prefix("%%") {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let position = text.len() - tail.len();
            let command = operator::split(tail).ok_or_else(|| Problem::Wrong(not_a_command(text, tail)))?;
            let place = format!(" (at character {position} of the format)");
            if operator::is_not_implemented(&command) {
                let name = command.name;
                let text = format!("`%{name}%` is valid in Envoy, but petmesh does not implement it{place}");
                return Err(Problem::NotImplemented(text));
            }
            let operator = Operator::new(&command).map_err(|text| Problem::Wrong(text + &place))?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into_boxed_slice()));
            }
            pieces.push(Piece::Operator(operator));
            rest = command.rest;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into_boxed_slice()));
        }
        Ok(Self { pieces, omit_empty: false })
    }

    /// A format for a header value: what does not exist prints as nothing (and an empty value is not added).
    pub(crate) fn parse_header(text: &str) -> Result<Self, Problem> {
        let format = Self::parse(text)?.omit_empty();
        let fixed = format.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Operator(_) => None,
        });
        if fixed.into_iter().any(|text| FieldValue::new(text).is_err()) {
            let text = format!("{text:?} has a control character, which no header may hold");
            return Err(Problem::Wrong(text));
        }
        Ok(format)
    }

    /// Missing values print as nothing (`omit_empty_values`).
    #[must_use]
    pub(crate) fn omit_empty(mut self) -> Self {
        self.omit_empty = true;
        self
    }

    /// Appends the value.
    pub(crate) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        self.write_pieces(context, out, |_, _| {});
    }

    /// Appends the value as a line of a log, where control characters of a client are escaped (`\x0d`): Envoy writes them as they
    /// are, and so lets a client forge a line.
    pub(crate) fn write_line(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        self.write_pieces(context, out, escape_controls);
    }

    fn write_pieces(
        &self,
        context: &Context<'_>,
        out: &mut Vec<u8>,
        after_operator: impl Fn(&mut Vec<u8>, usize),
    ) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    let start = out.len();
                    if !operator.write(context, out) && !self.omit_empty {
                        out.push(b'-');
                    }
                    if operator.may_carry_client_bytes() {
                        after_operator(out, start);
                    }
                }
            }
        }
    }

    /// The value as bytes.
    pub(crate) fn bytes(&self, context: &Context<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(context, &mut out);
        out
    }

    /// The operator, when the format is one operator and nothing else.
    fn single(&self) -> Option<&Operator> {
        match &*self.pieces {
            [Piece::Operator(operator)] => Some(operator),
            _ => None,
        }
    }
}

/// Escapes the control characters from `start` on.
fn escape_controls(out: &mut Vec<u8>, start: usize) {
    let written = out.get(start..).unwrap_or_default();
    if !written.iter().fold(false, |found, byte| found | byte.is_ascii_control()) {
        return;
    }
    let written = out.split_off(start);
    for byte in written {
        if byte.is_ascii_control() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}

fn not_a_command(text: &str, tail: &str) -> String {
    let position = text.len() - tail.len();
    let shown: String = tail.chars().take(40).collect();
    format!(
        "`{shown}` at character {position} of the format is no operator: `%NAME%`, `%NAME(ARGUMENT)%` or `%NAME(ARGUMENT):LENGTH%` \
         is needed; write `%%` for a percent sign"
    )
}

/// A spelling of every operator there is, for tests of what they can carry.
#[cfg(test)]
pub(crate) fn every_operator() -> Vec<String> {
    let mut all: Vec<String> = operator::PLAIN.iter().map(|(name, _)| format!("%{name}%")).collect();
    all.extend(names::ABSENT.iter().map(|name| format!("%{name}%")));
    for name in names::OTHERS {
        let arguments: &[&str] = match *name {
            "REQ" | "REQUEST_HEADER" => &[
                "(x-client)",
                "(:path)",
                "(:authority)",
                "(:method)",
                "(:scheme)",
                "(x-none?x-request-id):9",
            ],
            "RESP" | "RESPONSE_HEADER" => &["(x-up)", "(:status)"],
            "TRAILER" | "RESPONSE_TRAILER" => &["(x-up)"],
            "QUERY_PARAM" => &["(q)", "(q):5", "(q2)"],
            "QUERY_PARAMS" => &["", "(ORIG)"],
            "PATH" => &["", "(NQ:PATH)"],
            "START_TIME" | "EMIT_TIME" => &["", "(%s)"],
            "COMMON_DURATION" => &["(DS_RX_BEG:DS_TX_END)"],
            "METADATA" => &["(ROUTE:filter:key)", "(DYNAMIC:a)"],
            "ENVIRONMENT" => &["(HOME)"],
            "GRPC_STATUS" => &["", "(SNAKE_STRING)"],
            "RESPONSE_CODE_DETAILS" => &["", "(ALLOW_WHITESPACES)"],
            _ => &[""],
        };
        all.extend(arguments.iter().map(|argument| match argument.split_once("):") {
            Some((argument, limit)) => format!("%{name}{argument}):{limit}%"),
            None => format!("%{name}{argument}%"),
        }));
    }
    all
}

#[cfg(test)]
#[path = "../../tests/unit/format.rs"]
mod tests;
