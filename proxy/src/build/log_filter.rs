//! Access log filters, which local reply mappers use as well.

use xds::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use xds::envoy::config::accesslog::v3::comparison_filter::Op;
use xds::envoy::config::accesslog::v3::{AccessLogFilter, ComparisonFilter};

use super::place::{Code, Place};
use super::{Cx, matchers};
use crate::access_log::{Comparison, LogFilter, Operation};
use crate::error::Flag;

/// A filter; `None` when it is wrong, and reported.
pub(super) fn filter(cx: &mut Cx<'_>, place: &Place<'_>, message: &AccessLogFilter) -> Option<LogFilter> {
    match message.filter_specifier.as_ref()? {
        FilterSpecifier::StatusCodeFilter(filter) => {
            comparison(cx, filter.comparison.as_ref()).map(LogFilter::StatusCode)
        }
        FilterSpecifier::DurationFilter(filter) => {
            comparison(cx, filter.comparison.as_ref()).map(LogFilter::Duration)
        }
        FilterSpecifier::NotHealthCheckFilter(_) => Some(LogFilter::NotHealthCheck),
        FilterSpecifier::HeaderFilter(filter) => {
            let place = place.field("header_filter");
            matchers::header(cx, &place.field("header"), filter.header.as_ref()?).map(LogFilter::Header)
        }
        FilterSpecifier::ResponseFlagFilter(filter) => {
            let flag =
                |name: &String| Flag::ALL.iter().find(|(_, short, _)| short == name).map(|(flag, ..)| *flag);
            // Flags that never occur here are left out: they would not match.
            Some(LogFilter::ResponseFlag(filter.flags.iter().filter_map(flag).collect()))
        }
        FilterSpecifier::AndFilter(all) => {
            Some(LogFilter::And(filters(cx, &place.field("and_filter"), &all.filters)))
        }
        FilterSpecifier::OrFilter(any) => {
            Some(LogFilter::Or(filters(cx, &place.field("or_filter"), &any.filters)))
        }
        _ => {
            cx.error(place, Code::NotImplemented, "this access log filter is not implemented");
            None
        }
    }
}

fn filters(cx: &mut Cx<'_>, place: &Place<'_>, messages: &[AccessLogFilter]) -> Vec<LogFilter> {
    let each = messages.iter().enumerate();
    each.filter_map(|(at, message)| filter(cx, &place.item("filters", at), message)).collect()
}

/// A comparison with a number, which the runtime values may replace.
fn comparison(cx: &Cx<'_>, message: Option<&ComparisonFilter>) -> Option<Comparison> {
    let message = message?;
    let operation = match Op::try_from(message.op) {
        Ok(Op::Ge) => Operation::AtLeast,
        Ok(Op::Le) => Operation::AtMost,
        Ok(Op::Ne) => Operation::NotEqual,
        Ok(Op::Eq) | Err(_) => Operation::Equal,
    };
    let value = message.value.as_ref();
    let number =
        value.map_or(0, |value| cx.runtime.number(&value.runtime_key).unwrap_or(value.default_value));
    Some(Comparison { operation, value: number.into() })
}
