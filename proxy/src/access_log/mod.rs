//! Access logs: which exchanges are logged, in which format, to which file.
//!
//! A worker formats its lines into its own buffer of a `Sink`; one thread (`LogWriter`) alone
//! writes to files.

use crate::format::{Context, DEFAULT_LOG_FORMAT, Format, JsonFormat};

mod filter;
mod writer;

pub use filter::{Comparison, LogFilter, Operation};
pub use writer::{LogWriter, OpenError, Sink};

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
pub enum LogFormat {
    /// `text_format`, `text_format_source` and the old `format`: the text as given, line feed included where the text has one.
    Text(Format),
    /// `json_format`, and the old `typed_json_format`.
    Json(JsonFormat),
}

impl Default for LogFormat {
    /// Envoy's line.
    fn default() -> Self {
        // The text is a constant of ours (a test parses it); a log with empty lines would be the only harm.
        Self::Text(Format::parse(DEFAULT_LOG_FORMAT).unwrap_or_default())
    }
}

impl LogFormat {
    /// Appends the line that the format makes of an exchange.
    pub fn write_line(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format) => format.write_line(context, out),
            Self::Json(format) => format.write(context, out),
        }
    }

    /// Appends what the format makes of an exchange.
    pub fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format) => format.write(context, out),
            Self::Json(format) => format.write(context, out),
        }
    }
}

impl AccessLog {
    /// Without a filter, every exchange is logged.
    pub fn new(filter: Option<LogFilter>, format: LogFormat, sink: Sink) -> Self {
        Self { filter, format, sink }
    }

    /// Logs an exchange that has ended, unless the filter says no. `worker` is the calling worker's number. Never blocks on a file;
    /// a line that finds the worker's buffer full is dropped and counted (`filesystem.write_dropped`).
    pub fn log(&self, worker: usize, context: &Context<'_>) {
        if self.filter.as_ref().is_none_or(|filter| filter.passes(context)) {
            self.sink.write_line(worker, |out| self.format.write_line(context, out));
        }
    }
}

#[cfg(test)]
mod tests;
