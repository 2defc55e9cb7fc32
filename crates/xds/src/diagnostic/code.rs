//! The kinds of findings: their names, and what `petmesh config explain` says about each.
//!
//! Calls nothing but `nearest`.

use serde::{Serialize, Serializer};

/// Declares the codes: variant, name, and the explanation.
macro_rules! codes {
    ($($variant:ident $severity:ident $name:literal $about:literal $text:literal)*) => {
        /// The kind of a finding: stable names, for editors and for `petmesh config explain`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $about] $variant,)*
        }

        impl Code {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name that people see, as `unknown-field`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// One sentence: what is found.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => $about,)*
                }
            }

            /// Why it matters and what to do.
            pub fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Whether a finding of this kind only warns.
            pub fn is_warning(self) -> bool {
                match self {
                    $(Self::$variant => codes!(@$severity),)*
                }
            }
        }
    };
    (@error) => { false };
    (@warning) => { true };
}

impl Code {
    /// The code of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

/// What `petmesh config explain CODE` prints; the error names the nearest code.
pub fn explain(name: &str) -> Result<String, String> {
    let Some(code) = Code::named(name) else {
        let near = crate::read::nearest(name, Code::ALL.iter().map(|code| code.as_str()));
        let help = near.map_or_else(
            || "`petmesh config explain` lists all codes".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        return Err(format!("there is no code `{name}`: {help}"));
    };
    let severity = if code.is_warning() { "warning" } else { "error" };
    Ok(format!("{severity}[{}]: {}\n\n{}\n", code.as_str(), code.about(), code.explanation()))
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

codes! {
    Unreadable error "unreadable" "The file cannot be read at all."
    "It does not exist, is a directory, may not be read by this user, or is not UTF-8. Check the path and `ls -l`; in a pod, check \
     that the ConfigMap is mounted where `-c` points."

    Syntax error "syntax" "The file is not YAML or JSON."
    "Usual causes: indentation with tabs or of uneven depth, a missing quote or bracket, a `: ` inside an unquoted text. \
     Nothing else is said about such a file, because its structure is unknown."

    Limit error "limit" "The file is too large, too deep, or multiplied by aliases."
    "A file may have 16 MiB, 100 levels and a million values, those copied by aliases included. Real files stay far below; what \
     exceeds this is damaged or hostile."

    Empty error "empty" "There is nothing in the file."
    "It has no content besides comments. An empty mapping, `{}`, is a valid configuration, if a useless one."

    UnknownField error "unknown-field" "Envoy has no field of this name in this message."
    "Usually a slip of the pen (then the nearest name is suggested) or a field one level too high or too low: compare the \
     path in the message with Envoy's reference. docs/supported-fields.md lists all fields that are known."

    NotImplemented error "not-implemented" "Envoy has this field, value or extension, and petmesh does not."
    "To ignore it would change what the file means, so the file is refused. Remove it, or use what the help names instead. \
     docs/supported-fields.md says what is implemented."

    Harmless warning "harmless" "Envoy has this field, and petmesh can do without."
    "It configures a part of Envoy that has no counterpart here, as the watchdog. Requests are answered the same without it."

    WrongType error "wrong-type" "A value is of another kind than the field needs."
    "A list stands where a mapping should, or a number where a text should. An unquoted `on`, `yes`, `5` or `010` is no text in \
     YAML 1.1, which Envoy reads: put it in quotes."

    BadValue error "bad-value" "A value is of the right kind, but not allowed."
    "It is out of range, has a wrong form or breaks a rule of Envoy's API. Durations are seconds with an `s`: `0.25s`, not `250ms` \
     and not `0.25`; they are never negative."

    MissingField error "missing-field" "A required field is absent."
    "Envoy refuses the file as well. The message says which field, or of which fields one is needed."

    OneOf error "one-of" "Two fields are given of which only one may be present."
    "They answer the same question in two ways, as `prefix` and `path` of a route. Remove one of them."

    DuplicateKey warning "duplicate-key" "A key stands twice in one mapping."
    "The last one counts, as in Envoy; the other is dead text. A field in its two spellings, `connect_timeout` and \
     `connectTimeout`, is the same key."

    SecondDocument warning "second-document" "A second YAML document follows after `---`."
    "Envoy reads the first document of a file and ignores the others in silence. If the rest is meant, put it into the first \
     document, or into a file of its own."

    MergeKey error "merge-key" "A YAML merge key, `<<`."
    "Envoy's YAML reader does not know merge keys and refuses them. Write the values out, or use an alias for a whole value."

    OldForm warning "old-form" "A form of 2017-2018, read as today's."
    "Today's Envoy refuses it; petmesh reads it as the form that the message names. `petmesh config upgrade FILE` prints the whole \
     file in today's form."

    UnknownType error "unknown-type" "An `@type` names a message that nobody knows."
    "The form is `type.googleapis.com/` and the full name of a message, as \
     `type.googleapis.com/envoy.extensions.filters.http.router.v3.Router`; upper and lower case count."

    Reference error "reference" "Something is named that the file does not define."
    "A route or a configuration source names a cluster that is not among `static_resources.clusters`. `validate_clusters: false` in \
     a route configuration allows routes to clusters that do not exist yet."

    Structure error "structure" "A listener, route or cluster that cannot work as written."
    "Each field is right by itself, but together they contradict: two listeners on one address, a domain in two virtual hosts, a \
     filter behind the router, which ends the chain."

    NoRouter warning "no-router" "A connection manager has no router filter."
    "In Envoy such a file is valid, and then every request hangs: nothing sends it on. petmesh adds the router as the last filter. \
     Add `envoy.filters.http.router` to `http_filters`."

    NoNetworkFilter warning "no-network-filter" "A filter chain has no network filter."
    "Envoy accepts this, and closes every connection of the chain at once. Add `envoy.filters.network.http_connection_manager` or \
     `envoy.filters.network.tcp_proxy` to `filters`."

    UnreachableRoute warning "unreachable-route" "No request can reach a route, because an earlier one takes them all."
    "Routes are tried in order and the first that matches wins, whichever is more specific. Put the specific route first, and the \
     one that takes everything last."

    PathWithQuery warning "path-with-query" "A path to match contains a `?`."
    "Paths are compared without their query, so this never matches. Use `query_parameters` of the match."

    UnmatchedDomain warning "unmatched-domain" "A domain holds a star where it stands for itself."
    "A star is a wildcard only at the beginning or the end, and only once. Anywhere else it is a plain character, which no Host \
     header has."

    UnusedCluster warning "unused-cluster" "Nothing in the file uses a cluster."
    "No route, filter or configuration source names it. Either it is left over, or the name of a route is not the one that was meant."

    UnknownTcpCluster warning "unknown-tcp-cluster" "A TCP proxy names a cluster that the file does not define."
    "Envoy accepts this, because the cluster may come later. Until then every connection is closed at once."

    NoEndpoints warning "no-endpoints" "A cluster has no endpoint."
    "Every request to it is answered with 503. Add a `load_assignment` with at least one endpoint."

    TimeoutAboveParent warning "timeout-above-parent" "A timeout can never run out, because one around it is shorter."
    "`per_try_timeout` lies inside the route's `timeout` (15 s by default), and that inside `max_stream_duration` and the stream's idle \
     timeout (`stream_idle_timeout`, 5 min by default), which runs while the upstream is silent. The shorter one wins and \
     answers with its own status and flag. Lower the inner or raise the outer."

    RetryNonIdempotent warning "retry-non-idempotent" "A route repeats requests that may have been carried out already."
    "`reset` and conditions on the answer (`5xx`, `gateway-error`, …) repeat a request that the upstream may have seen: a POST could be \
     carried out twice. `connect-failure` and `refused-stream` are safe. Restrict the route with a header match on `:method` to GET, \
     HEAD, OPTIONS, PUT or DELETE, or leave the unsafe conditions out."

    UnknownRetryCondition warning "unknown-retry-condition" "A retry policy names a condition that does not exist."
    "Envoy passes over names in `retry_on` that it does not know, so that a slip of the pen, as `5XX` or `connection-failure`, means that \
     nothing is retried. Write the condition as Envoy's reference does, or remove it."

    BreakerBelowPool warning "breaker-below-pool" "A circuit breaker is below what the connection pool needs."
    "A request that finds no idle connection waits, so `max_pending_requests: 0` refuses even the first one. Over HTTP/1 each request \
     takes a connection, so connections above `max_requests` are never used; and with fewer connections than endpoints the \
     pools compete. Raise the limit, or lower the other to match."

    OutlierEjectsNobody warning "outlier-ejects-nobody" "Outlier detection that can never eject a host."
    "`max_ejection_percent` (10 by default) is a share of the cluster's hosts, and one host out of a few is more than that. Raise it, or \
     set `always_eject_one_host`."

    TracingWithoutService warning "tracing-without-service" "Tracing is configured, but the proxy has no service name."
    "Spans carry `node.cluster` as the name of their service; without it all proxies look the same in the tracing system. Set \
     `node.cluster`, or start the proxy with `--service-cluster`."

    OpenAdmin warning "open-admin" "The admin page is open to everybody who reaches the address."
    "It shows the whole configuration and can stop the proxy. Bind it to 127.0.0.1, and use `kubectl port-forward` to look at it."

    LoopbackListener warning "loopback-listener" "A listener in a pod is bound to loopback."
    "Other pods, Services and the kubelet's probes reach the pod by its address and never this listener. Bind it to 0.0.0.0, or set \
     `traffic_direction: OUTBOUND` if only the containers of the same pod are to call it."

    PrivilegedPort warning "privileged-port" "A port below 1024 needs a privilege."
    "Binding it fails for an ordinary user, as containers without root are. Use a port from 1024 on and let the Service map \
     port 80 to it, or grant CAP_NET_BIND_SERVICE."
}
