//! The table: every recording, with the state it needs and how it is compared, or the reason why not.

use kube_api::recording::Recording;
use kube_api::{Anonymous, On, Server};
use serde_json::Value;

/// How one recording is replayed.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub mode: Mode,
    /// Recordings whose objects were there.
    pub state: &'static [&'static str],
    /// The server's revision then; 0: what the recording says itself (the version of its list, or watched from).
    pub revision: u64,
    /// Sent by an administrator, whose client certificate is no part of the recording.
    pub admin: bool,
    pub anonymous: Anonymous,
    /// What happens to the server before the request.
    pub before: Option<fn(&Server)>,
    /// timeoutSeconds instead of the recorded one, where nothing happens in that time.
    pub seconds: Option<u64>,
    /// Whether sizes are compared: not where texts differ that mean nothing.
    pub same_size: bool,
    /// Takes out of both documents what may differ.
    pub normal: fn(&mut Value),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One request, one answer.
    Whole,
    /// A watch during which the recorded events happen.
    Live,
    /// The connection is refused.
    Refused,
    /// The connection is accepted, and nothing follows.
    Stalled,
    Unsupported(&'static str),
}

const BASE: Case = Case {
    name: "",
    mode: Mode::Whole,
    state: &[],
    revision: 0,
    admin: false,
    anonymous: Anonymous::Forbidden,
    before: None,
    seconds: None,
    same_size: true,
    normal: |_| {},
};

// The slices of the namespace demo at the first lists, after the watch 03, and when the compaction was recorded.
const FIRST: &[&str] = &["02-list-limit", "02-list-continue"];
const SECOND: &[&str] = &["04-watchlist"];
const THIRD: &[&str] = &["05-list-exact-after-compaction-still-in-cache"];
const WEB: &[&str] = &["12-accept-any"];

const NO_REVIEWS: &str = "reviews of tokens and access are not served";
const NO_GZIP: &str = "no answer is compressed";
const NO_PROTOBUF: &str = "JSON only: protobuf is not served";
const OTHER_FORMATS: &str = "the text lists the formats that are served, and those are fewer";

/// All of them.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(lists());
    all.extend(watches());
    all.extend(versions());
    all.extend(refusals());
    all.extend(formats());
    all.extend(restarts());
    all.extend(updates());
    all
}

fn lists() -> Vec<Case> {
    let at = |name, state| Case { name, state, ..BASE };
    vec![
        at("01-get-one", FIRST),
        at("01-list-selector", FIRST),
        at("01-list-selector-nothing", FIRST),
        at("01-list-selector-rv0", FIRST),
        at("02-list-continue", FIRST),
        at("02-list-continue-garbage", FIRST),
        at("02-list-limit", FIRST),
        at("02-list-limit-selector", FIRST),
        Case { admin: true, ..at("08-list-absent-namespace", FIRST) },
        Case { admin: true, ..at("08-notfound-group", &[]) },
        at("08-notfound-object", FIRST),
        Case { admin: true, ..at("08-notfound-resource", &[]) },
        Case { admin: true, ..at("08-notfound-version", &[]) },
    ]
}

fn watches() -> Vec<Case> {
    let short = |name, state| Case { name, state, seconds: Some(1), ..BASE };
    vec![
        Case { name: "03-watch", mode: Mode::Live, ..BASE },
        short("03-watch-no-rv", FIRST),
        short("03-watch-rv0", FIRST),
        short("04-watchlist", SECOND),
        short("04-watchlist-empty", SECOND),
        short("04-watchlist-on-list", SECOND),
        short("04-watchlist-rv0", SECOND),
        short("04-watchlist-selector", SECOND),
        short("04-watchlist-without-bookmarks", SECOND),
        short("04-watchlist-without-match", SECOND),
        // Something that is not watched moved the version on.
        Case {
            name: "10-watch-timeout",
            revision: 698,
            before: Some(|server| server.store().advance(705)),
            ..BASE
        },
        short("10-watch-timeout-nobookmark", FIRST),
    ]
}

fn versions() -> Vec<Case> {
    let at = |name, revision| Case { name, state: THIRD, revision, seconds: Some(1), ..BASE };
    vec![
        at("05-continue-after-compaction-still-in-cache", 0),
        at("05-continue-expired", 1620),
        at("05-list-exact-after-compaction-still-in-cache", 0),
        at("05-list-exact-compacted", 1620),
        Case { state: SECOND, ..at("05-list-future-rv", 813) },
        at("05-list-limit-before-compaction", 0),
        Case { state: &["05-list-old-rv-notolderthan"], ..at("05-list-old-rv-notolderthan", 0) },
        Case {
            mode: Mode::Live,
            state: &[],
            seconds: None,
            ..at("05-watch-after-compaction-still-in-cache", 0)
        },
        Case { state: SECOND, ..at("05-watch-future-rv", 813) },
        at("05-watch-garbage-rv", 813),
        at("05-watch-rv1", 319),
        at("05-watch-too-old", 1620),
        at("05-watch-too-old-selector", 1620),
        Case { state: &["05-watchlist-with-old-rv"], ..at("05-watchlist-with-old-rv", 0) },
    ]
}

fn refusals() -> Vec<Case> {
    let case = |name| Case { name, ..BASE };
    let off = |name| Case { name, anonymous: Anonymous::Unauthorized, ..BASE };
    let throttled =
        |name| Case { name, before: Some(|server| server.faults().fail_next(1, 429, On::All)), ..BASE };
    let unsupported = |name| Case { name, mode: Mode::Unsupported(NO_REVIEWS), ..BASE };
    vec![
        case("06-bad-token"),
        case("06-no-token-anonymous"),
        off("06-no-token-anonymous-off"),
        off("06-no-token-anonymous-off-readyz"),
        off("06-no-token-anonymous-off-watch"),
        case("06-no-token-readyz"),
        // Another build: the same keys.
        Case { same_size: false, normal: without_values, ..case("06-no-token-version") },
        case("07-forbidden-absent-namespace"),
        case("07-forbidden-clusterwide"),
        case("07-forbidden-list"),
        case("07-forbidden-other-namespace"),
        case("07-forbidden-watch"),
        throttled("09-throttled-list"),
        throttled("09-throttled-post"),
        throttled("09-throttled-watch"),
        unsupported("14-selfsubjectaccessreview-allowed"),
        unsupported("14-selfsubjectaccessreview-denied"),
        unsupported("14-selfsubjectreview"),
        unsupported("14-tokenreview-forbidden"),
        unsupported("14-tokenreview-invalid"),
        unsupported("14-tokenreview-valid"),
    ]
}

fn formats() -> Vec<Case> {
    let at = |name| Case { name, state: WEB, seconds: Some(1), ..BASE };
    let not = |name, reason| Case { name, mode: Mode::Unsupported(reason), ..BASE };
    vec![
        Case { admin: true, state: &[], ..at("11-create-1001-endpoints") },
        not("11-list-gzip-big", NO_GZIP),
        Case { state: &["11-list-gzip-small"], ..at("11-list-gzip-small") },
        Case { state: &["11-list-nogzip-big"], ..at("11-list-nogzip-big") },
        Case { mode: Mode::Live, state: &[], seconds: None, ..at("11-watch-gzip") },
        Case { state: &["11-watch-gzip-big"], ..at("11-watch-gzip-big") },
        at("12-accept-any"),
        not("12-accept-cbor", OTHER_FORMATS),
        not("12-accept-html", OTHER_FORMATS),
        at("12-accept-none"),
        at("12-accept-partial"),
        not("12-accept-protobuf", NO_PROTOBUF),
        not("12-accept-protobuf-or-json", NO_PROTOBUF),
        Case { same_size: false, normal: without_descriptions_and_ages, ..at("12-accept-table") },
        not("12-accept-yaml", "JSON only: YAML is not served"),
        not("12-post-wrong-content-type", OTHER_FORMATS),
        not("12-watch-accept-html", OTHER_FORMATS),
        not("12-watch-accept-protobuf", NO_PROTOBUF),
        at("12-watch-accept-stream"),
    ]
}

fn restarts() -> Vec<Case> {
    let after = |name, revision| Case { name, revision, ..BASE };
    let refused = |name| Case { name, mode: Mode::Refused, ..BASE };
    let stall: fn(&Server) = |server| server.faults().stall(true);
    let stalled = |name| Case { name, mode: Mode::Stalled, before: Some(stall), seconds: Some(1), ..BASE };
    let live = |name| Case { name, mode: Mode::Live, ..BASE };
    // The transient 403 of a server that has not read its roles yet.
    let forbid: fn(&Server) = |server| server.faults().fail_next(1, 403, On::Watch);
    vec![
        refused("13-connect-while-down-kill9"),
        refused("13-connect-while-down-sigterm"),
        after("13-resume-after-kill9", 1844),
        after("13-resume-after-kill9-older-rv", 1844),
        after("13-resume-after-sigterm", 2141),
        after("13-resume-after-sigterm-older-rv", 2141),
        refused("13-startup-kill9-0"),
        stalled("13-startup-kill9-1"),
        Case { before: Some(forbid), ..after("13-startup-kill9-2", 1844) },
        after("13-startup-kill9-3", 1844),
        refused("13-startup-sigterm-0"),
        stalled("13-startup-sigterm-1"),
        after("13-startup-sigterm-2", 2141),
        live("13-watch-during-kill9"),
        live("13-watch-during-sigterm"),
    ]
}

fn updates() -> Vec<Case> {
    let live = |name| Case { name, mode: Mode::Live, ..BASE };
    vec![
        live("15-rolling-update"),
        live("15-rolling-update-real-kubelet"),
        live("15-rolling-update-real-kubelet-pods"),
        live("16-readiness-flip"),
        Case { admin: true, ..live("17-namespace-deleted") },
        live("17-service-deleted"),
        Case {
            name: "18-many-endpoints",
            mode: Mode::Unsupported("2.2 MB: not kept in the repository"),
            ..BASE
        },
        Case { name: "18-many-list", state: &["18-many-list"], ..BASE },
    ]
}

fn without_values(document: &mut Value) {
    for value in document.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        *value = Value::Null;
    }
}

fn without_descriptions_and_ages(table: &mut Value) {
    for column in table["columnDefinitions"].as_array_mut().into_iter().flatten() {
        column["description"] = Value::Null;
    }
    for row in table["rows"].as_array_mut().into_iter().flatten() {
        row["cells"][4] = Value::Null;
    }
}

impl Case {
    /// The revision to begin with.
    pub fn revision(&self, recording: &Recording) -> u64 {
        if self.revision > 0 {
            return self.revision;
        }
        let lines = recording.parsed().map(|response| response.json_lines()).unwrap_or_default();
        let version = |pointer: &str| lines.last()?.pointer(pointer)?.as_str()?.parse().ok();
        let request = String::from_utf8_lossy(&recording.request);
        let asked = request
            .split_once("resourceVersion=")
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        match asked.and_then(|digits| digits.parse().ok()).filter(|&version: &u64| version > 0) {
            Some(asked) if self.mode == Mode::Live => asked,
            _ => version("/metadata/resourceVersion")
                .or(version("/object/metadata/resourceVersion"))
                .unwrap_or(698),
        }
    }

    /// The bytes to send: the recorded ones, with our tokens.
    pub fn request(&self, recording: &Recording) -> Vec<u8> {
        let mut text = String::from_utf8(recording.request.clone()).unwrap();
        if text.is_empty() {
            text = too_many_endpoints();
        }
        for account in ["disco", "nobody", "throttled"] {
            text = text.replace(&format!("<token of service account demo/{account}>"), account);
        }
        if self.admin {
            text = text.replacen("\r\n", "\r\nAuthorization: Bearer admin\r\n", 1);
        }
        match self.seconds {
            Some(seconds) => with_timeout(text.as_bytes(), seconds),
            None => text.into_bytes(),
        }
    }
}

/// The request with another `timeoutSeconds`, where it has one.
pub fn with_timeout(request: &[u8], seconds: u64) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let Some((head, rest)) = text.split_once("timeoutSeconds=") else { return request.to_vec() };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{head}timeoutSeconds={seconds}{rest}").into_bytes()
}

// The one request that was not kept: a slice with an endpoint too many.
fn too_many_endpoints() -> String {
    let endpoints: Vec<_> = (0..1001)
        .map(|n| serde_json::json!({"addresses": [format!("10.0.{}.{}", n / 256, n % 256)]}))
        .collect();
    let slice = serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "big2"}, "addressType": "IPv4", "endpoints": endpoints});
    let body = slice.to_string();
    format!(
        "POST /apis/discovery.k8s.io/v1/namespaces/demo/endpointslices HTTP/1.1\r\nHost: x\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
