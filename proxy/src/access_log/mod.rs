//! Access logs: which exchanges are logged, in which format, to which file.
//!
//! A worker formats its lines into its own buffer of a `Sink`; one thread (`LogWriter`) alone
//! writes to files.

use crate::error::Flag;
use crate::format::{Context, DEFAULT_LOG_FORMAT, Format, JsonFormat};
use crate::matcher::HeaderMatcher;
use crate::time::millis;

mod writer;

pub use writer::{LogWriter, Sink};

/// One configured access log.
///
/// From `config.accesslog.v3.AccessLog`: `filter` as is; a `FileAccessLog` becomes `LogWriter::open(path)`, `StdoutAccessLog` and
/// `StderrAccessLog` become `LogWriter::stdout` and `stderr`.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<LogFilter>,
    format: LogFormat,
    sink: Sink,
}

/// How a line looks.
#[derive(Clone, Debug)]
pub(crate) enum LogFormat {
    /// `text_format`, `text_format_source` and the old `format`: the string as given, line feed
    /// included where the string has one.
    Text(Format),
    /// `json_format`, and the old `typed_json_format`.
    Json(JsonFormat),
}

impl Default for LogFormat {
    /// Envoy's line.
    fn default() -> Self {
        // The format is a constant (a test parses it), so this cannot fail; it would only log empty
        // lines.
        Self::Text(Format::parse(DEFAULT_LOG_FORMAT).unwrap_or_default())
    }
}

impl LogFormat {
    /// Appends the line that the format makes of an exchange.
    pub(crate) fn write_line(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format) => format.write_line(context, out),
            Self::Json(format) => format.write(context, out),
        }
    }

    /// Appends what the format makes of an exchange.
    pub(crate) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format) => format.write(context, out),
            Self::Json(format) => format.write(context, out),
        }
    }
}

impl AccessLog {
    /// Without a filter, every exchange is logged.
    pub(crate) fn new(filter: Option<LogFilter>, format: LogFormat, sink: Sink) -> Self {
        Self { filter, format, sink }
    }

    /// Logs an exchange that has ended, unless the filter says no. `worker` is the calling worker's number. Never blocks on a file;
    /// a line that finds the worker's buffer full is dropped and counted (`filesystem.write_dropped`).
    pub(crate) fn log(&self, worker: usize, context: &Context<'_>) {
        if self.filter.as_ref().is_none_or(|filter| filter.passes(context)) {
            self.sink.write_line(worker, |out| self.format.write_line(context, out));
        }
    }
}

/// `config.accesslog.v3.AccessLogFilter`, without the kinds that are not implemented (runtime,
/// metadata, CEL, extensions).
#[derive(Debug)]
pub(crate) enum LogFilter {
    /// `status_code_filter`: the status sent; 0 when none was.
    StatusCode(Comparison),
    /// `duration_filter`, in milliseconds: the whole exchange. One that has not ended does not pass.
    Duration(Comparison),
    /// `not_health_check_filter`: not what the health check filter takes for a check.
    NotHealthCheck,
    /// `header_filter`: a header of the request.
    Header(HeaderMatcher),
    /// `response_flag_filter`: one of these flags is set; with none given, any flag.
    ResponseFlag(Vec<Flag>),
    /// `and_filter`.
    And(Vec<LogFilter>),
    /// `or_filter`.
    Or(Vec<LogFilter>),
}

/// `config.accesslog.v3.ComparisonFilter`: the exchange's number on the left side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub operation: Operation,
    /// `value.default_value`.
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `EQ`.
    Equal,
    /// `GE`.
    AtLeast,
    /// `LE`.
    AtMost,
    /// `NE`.
    NotEqual,
}

impl LogFilter {
    /// Whether the exchange is logged.
    pub(crate) fn passes(&self, context: &Context<'_>) -> bool {
        let info = context.info;
        match self {
            Self::StatusCode(comparison) => comparison.holds(u64::from(info.status)),
            Self::Duration(comparison) => info
                .end
                .is_some_and(|end| comparison.holds(millis(end.saturating_duration_since(info.start)))),
            Self::NotHealthCheck => !info.health_check,
            Self::Header(matcher) => context.request.is_some_and(|head| matcher.matches(head)),
            Self::ResponseFlag(flags) if flags.is_empty() => !info.flags.is_empty(),
            Self::ResponseFlag(flags) => flags.iter().any(|flag| info.flags.has(*flag)),
            Self::And(filters) => filters.iter().all(|filter| filter.passes(context)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(context)),
        }
    }
}

impl Comparison {
    fn holds(self, number: u64) -> bool {
        match self.operation {
            Operation::Equal => number == self.value,
            Operation::AtLeast => number >= self.value,
            Operation::AtMost => number <= self.value,
            Operation::NotEqual => number != self.value,
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/access_log.rs"]
mod tests;
