//! Extensions that are none of ours: Envoy's, or nothing of the kind.

use xds::Any;

use super::Cx;
use super::place::{Code, Finding, Place};

/// A place for extensions: Envoy's category, and what people call one.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    category: &'static str,
    word: &'static str,
}

pub(super) const HTTP_FILTER: Kind = Kind { category: "envoy.filters.http", word: "HTTP filter" };
pub(super) const NETWORK_FILTER: Kind = Kind { category: "envoy.filters.network", word: "network filter" };
pub(super) const ACCESS_LOG: Kind = Kind { category: "envoy.access_loggers", word: "access log" };
pub(super) const TRACER: Kind = Kind { category: "envoy.tracers", word: "tracer" };
pub(super) const PROTOCOL_OPTIONS: Kind =
    Kind { category: "envoy.upstream_options", word: "protocol options" };
pub(super) const HOST_PREDICATE: Kind =
    Kind { category: "envoy.retry_host_predicates", word: "host predicate" };
pub(super) const RESOURCE_MONITOR: Kind =
    Kind { category: "envoy.resource_monitors", word: "resource monitor" };

impl Cx<'_> {
    /// Refuses an extension; `settings` decide what it is, as in Envoy, and its name without them.
    pub(super) fn no_extension(
        &mut self,
        place: &Place<'_>,
        kind: Kind,
        name: &str,
        settings: Option<&Any>,
    ) -> &mut Finding {
        let Kind { category, word } = kind;
        let full_name = settings.and_then(|any| any.type_url.rsplit('/').next());
        if full_name.is_none() && xds::is_implemented_extension(category, name) {
            let text = format!("the {word} `{name}` needs its configuration");
            let finding = self.error(place, Code::MissingField, text);
            finding.suggestion = Some("add `typed_config`".to_owned());
            return finding;
        }
        if xds::is_extension(category, full_name.unwrap_or(name)) {
            let text = format!("the {word} `{name}` is not implemented");
            return self.error(place, Code::NotImplemented, text);
        }
        if let Some(full_name) = full_name {
            let text = format!("`{full_name}` are not the settings of this kind of extension ({word})");
            return self.error(&place.field("typed_config"), Code::BadValue, text);
        }
        let near = xds::nearest(name, xds::extension_names(category));
        let finding = self.error(place, Code::BadValue, format!("there is no {word} `{name}`"));
        finding.suggestion = near.map(|near| format!("did you mean `{near}`?"));
        finding
    }
}
