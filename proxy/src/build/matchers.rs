//! Envoy's matcher messages -> `matcher`.

use regex::bytes::{Regex, RegexBuilder};

use xds::envoy::config::core::v3::RuntimeFractionalPercent;
use xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier as Header;
use xds::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
use xds::envoy::config::route::v3::{HeaderMatcher as HeaderMessage, QueryParameterMatcher};
use xds::envoy::r#type::matcher::v3::regex_matcher::EngineType;
use xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use xds::envoy::r#type::v3::FractionalPercent;
use xds::envoy::r#type::v3::fractional_percent::DenominatorType;
use xds::re2;

use super::Cx;
use super::place::{Code, Place};
use crate::matcher::{
    FractionMatcher, HeaderMatcher, HeaderRule, QueryMatcher, QueryRule, Rewrite, StringMatch,
};

/// The header conditions of a message; those that are wrong are left out and reported.
pub(super) fn headers(cx: &mut Cx<'_>, place: &Place<'_>, messages: &[HeaderMessage]) -> Vec<HeaderMatcher> {
    let each = messages.iter().enumerate();
    each.filter_map(|(at, message)| header(cx, &place.item("headers", at), message)).collect()
}

/// One header condition.
pub(super) fn header(cx: &mut Cx<'_>, place: &Place<'_>, message: &HeaderMessage) -> Option<HeaderMatcher> {
    let text = |text: &String| Box::<str>::from(text.as_str());
    let rule = match &message.header_match_specifier {
        None => HeaderRule::Present(true),
        Some(Header::PresentMatch(wanted)) => HeaderRule::Present(*wanted),
        Some(Header::RangeMatch(range)) => HeaderRule::Range(range.start, range.end),
        Some(Header::ExactMatch(value)) => {
            HeaderRule::String(StringMatch::Exact { text: text(value), ignore_case: false })
        }
        Some(Header::PrefixMatch(value)) => {
            HeaderRule::String(StringMatch::Prefix { text: text(value), ignore_case: false })
        }
        Some(Header::SuffixMatch(value)) => {
            HeaderRule::String(StringMatch::Suffix { text: text(value), ignore_case: false })
        }
        Some(Header::ContainsMatch(value)) => {
            HeaderRule::String(StringMatch::Contains { text: text(value), ignore_case: false })
        }
        Some(Header::SafeRegexMatch(value)) => {
            let pattern = full_regex(cx, &place.field("safe_regex_match"), value)?;
            HeaderRule::String(StringMatch::Regex(pattern))
        }
        Some(Header::StringMatch(value)) => {
            HeaderRule::String(string(cx, &place.field("string_match"), value)?)
        }
    };
    Some(HeaderMatcher {
        name: message.name.to_ascii_lowercase().into(),
        rule,
        invert: message.invert_match,
        treat_missing_as_empty: message.treat_missing_header_as_empty,
    })
}

/// The conditions on parameters of the URL.
pub(super) fn query(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    messages: &[QueryParameterMatcher],
) -> Vec<QueryMatcher> {
    let mut matchers = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let place = place.item("query_parameters", at);
        let rule = match &message.query_parameter_match_specifier {
            None => Some(QueryRule::Present(true)),
            Some(Query::PresentMatch(wanted)) => Some(QueryRule::Present(*wanted)),
            Some(Query::StringMatch(value)) => {
                string(cx, &place.field("string_match"), value).map(QueryRule::String)
            }
        };
        matchers.extend(rule.map(|rule| QueryMatcher { name: message.name.as_str().into(), rule }));
    }
    matchers
}

/// A condition on a string.
pub(super) fn string(cx: &mut Cx<'_>, place: &Place<'_>, message: &StringMatcher) -> Option<StringMatch> {
    let ignore_case = message.ignore_case;
    let text = |text: &String| Box::<str>::from(text.as_str());
    match message.match_pattern.as_ref()? {
        MatchPattern::Exact(value) => Some(StringMatch::Exact { text: text(value), ignore_case }),
        MatchPattern::Prefix(value) => Some(StringMatch::Prefix { text: text(value), ignore_case }),
        MatchPattern::Suffix(value) => Some(StringMatch::Suffix { text: text(value), ignore_case }),
        MatchPattern::Contains(value) => Some(StringMatch::Contains { text: text(value), ignore_case }),
        MatchPattern::SafeRegex(value) => {
            full_regex(cx, &place.field("safe_regex"), value).map(StringMatch::Regex)
        }
        MatchPattern::Custom(_) => {
            cx.error(&place.field("custom"), Code::NotImplemented, "custom matchers are not implemented");
            None
        }
    }
}

/// An expression for a whole text; `place` is that of its message.
pub(super) fn full_regex(cx: &mut Cx<'_>, place: &Place<'_>, message: &RegexMatcher) -> Option<Regex> {
    let compiled = compile(&message.regex, re2::full(&message.regex, most_instructions(cx, message)));
    compiled.map_err(|problem| cx.error(&place.field("regex"), Code::BadValue, problem)).ok()
}

/// An expression that Envoy takes, as it was written out for the `regex` crate.
fn compile(original: &str, translated: Result<String, String>) -> Result<Regex, String> {
    let built = RegexBuilder::new(&translated?).unicode(false).build();
    built.map_err(|error| format!("`{original}` is not a regular expression: {error}"))
}

/// The largest program that RE2 may make of an expression.
fn most_instructions(cx: &Cx<'_>, message: &RegexMatcher) -> u32 {
    let given = match &message.engine_type {
        Some(EngineType::GoogleRe2(settings)) => settings.max_program_size,
        None => None,
    };
    given.or_else(|| cx.runtime.number("re2.max_program_size.error_level")).unwrap_or(re2::MAX_PROGRAM)
}

/// A replacement by expression.
pub(super) fn rewrite(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &RegexMatchAndSubstitute,
) -> Option<Rewrite> {
    let pattern = message.pattern.as_ref()?;
    let compiled = compile(&pattern.regex, re2::part(&pattern.regex, most_instructions(cx, pattern)));
    let compiled = compiled
        .map_err(|problem| cx.error(&place.field("pattern").field("regex"), Code::BadValue, problem))
        .ok()?;
    let rewrite = Rewrite::new(compiled, &message.substitution);
    rewrite.map_err(|problem| cx.error(&place.field("substitution"), Code::BadValue, problem)).ok()
}

/// A share of requests; its runtime key is looked up now.
pub(super) fn fraction(cx: &Cx<'_>, message: &RuntimeFractionalPercent) -> FractionMatcher {
    share(cx, &message.runtime_key, message.default_value.as_ref())
}

/// The same, with the share apart from its key; without any it is none.
pub(super) fn share(cx: &Cx<'_>, key: &str, default: Option<&FractionalPercent>) -> FractionMatcher {
    let default = default.copied().unwrap_or_default();
    let denominator = match DenominatorType::try_from(default.denominator) {
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Ok(DenominatorType::Hundred) | Err(_) => 100,
    };
    // A bare number in the runtime is a percentage.
    let said = cx.runtime.number(key);
    let (numerator, denominator) = said.map_or((default.numerator, denominator), |percent| (percent, 100));
    FractionMatcher { runtime_key: key.into(), numerator, denominator, from_runtime: said.is_some() }
}

/// Every request.
pub(super) fn all() -> FractionMatcher {
    FractionMatcher { numerator: 100, denominator: 100, ..FractionMatcher::default() }
}
