//! Filters of access logs and local reply mappers: whether an exchange is meant. Pure.

use crate::error::Flag;
use crate::format::Context;
use crate::matcher::HeaderMatcher;
use crate::message::{Known, RequestHead};
use crate::time::millis;

/// `config.accesslog.v3.AccessLogFilter`, but for the kinds that are not known here (runtime, metadata, CEL, extensions).
#[derive(Debug)]
pub enum LogFilter {
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
    /// `grpc_status_filter`: the status is one of these, or with `exclude` none of these.
    GrpcStatus { codes: Vec<u32>, exclude: bool },
    /// `and_filter`.
    And(Vec<LogFilter>),
    /// `or_filter`.
    Or(Vec<LogFilter>),
}

/// `config.accesslog.v3.ComparisonFilter`: the exchange's number on the left side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub operation: Operation,
    /// `value.default_value`.
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
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
    /// Whether the exchange is meant.
    pub fn passes(&self, context: &Context<'_>) -> bool {
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
            Self::GrpcStatus { codes, exclude } => codes.contains(&grpc_status(context)) != *exclude,
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

/// The status that the answer carries, else what its HTTP status stands for.
fn grpc_status(context: &Context<'_>) -> u32 {
    let in_trailers = context.response_trailers.and_then(|fields| fields.get(Known::GrpcStatus));
    let in_head = || context.response.and_then(|head| head.fields.get(Known::GrpcStatus));
    let sent = in_trailers.or_else(in_head).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    sent.unwrap_or_else(|| match context.info.status {
        200 if !context.request.is_some_and(RequestHead::is_grpc) => 0,
        status => crate::grpc::status_of_http(status),
    })
}
