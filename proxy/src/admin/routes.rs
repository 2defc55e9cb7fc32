//! Which path is which page, the help text that lists them, and the rules on methods.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, Version};
use tokio::sync::mpsc;

use super::access::{Ends, Line};
use super::page::{Chunked, Page, Params, refusal};
use super::{Admin, Command, SLOWEST_REQUEST, clusters, config_dump, prometheus, server, stats};
use crate::stats::HttpStats;

/// Bytes of a form that are read.
const MAX_FORM: usize = 64 * 1024;

/// A path: its name, its line in `/help`, its parameters, and whether it changes something and so
/// needs POST.
struct Entry {
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
    changes: bool,
}

const fn entry(
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
) -> Entry {
    Entry { path, help, params, changes: false }
}

const fn change(
    path: &'static str,
    help: &'static str,
    params: &'static [(&'static str, &'static str)],
) -> Entry {
    Entry { path, help, params, changes: true }
}

const FILTER: (&str, &str) = ("filter", "Regular expression (Google re2) for filtering stats");
const INVERT: (&str, &str) = ("invert_filter", "Invert the filter regex");
const USED: (&str, &str) = ("usedonly", "Only include stats that have been written by system since restart");

/// In the order of `/help`, with Envoy's texts.
const ENTRIES: &[Entry] = &[
    entry("/", "Admin home page", &[]),
    change(
        "/allocprofiler",
        "enable/disable the allocation profiler (if supported)",
        &[("enable", "enable/disable the allocation profiler; One of (y, n)")],
    ),
    entry("/certs", "print certs on machine", &[]),
    entry(
        "/clusters",
        "upstream cluster status",
        &[("filter", "Regular expression (Google re2) for filtering clusters by name")],
    ),
    entry(
        "/config_dump",
        "dump current Envoy configs",
        &[
            ("resource", "The resource to dump"),
            (
                "mask",
                "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired \
                 repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask",
            ),
            (
                "name_regex",
                "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource \
                 and mask query parameters.",
            ),
            (
                "include_eds",
                "Dump currently loaded configuration including EDS. See the response definition for more information",
            ),
        ],
    ),
    entry("/contention", "dump current Envoy mutex contention stats (if enabled)", &[]),
    change(
        "/cpuprofiler",
        "enable/disable the CPU profiler",
        &[("enable", "enables the CPU profiler; One of (y, n)")],
    ),
    change(
        "/drain_listeners",
        "drain listeners",
        &[
            (
                "graceful",
                "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is \
                 configurable via server options or CLI",
            ),
            (
                "skip_exit",
                "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect \
                 when this is set, since the drain period only delays stopping the listeners",
            ),
            (
                "inboundonly",
                "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to \
                 determine whether a listener is inbound or outbound.",
            ),
        ],
    ),
    change("/healthcheck/fail", "cause the server to fail health checks", &[]),
    change("/healthcheck/ok", "cause the server to pass health checks", &[]),
    entry("/heap_dump", "dump current Envoy heap (if supported)", &[]),
    change(
        "/heapprofiler",
        "enable/disable the heap profiler",
        &[("enable", "enable/disable the heap profiler; One of (y, n)")],
    ),
    entry("/help", "print out list of admin commands", &[]),
    entry("/hot_restart_version", "print the hot restart compatibility version", &[]),
    entry(
        "/init_dump",
        "dump current Envoy init manager information (experimental)",
        &[(
            "mask",
            "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready \
             targets of all listeners with /init_dump?mask=listener`",
        )],
    ),
    entry("/listeners", "print listener info", &[("format", "File format to use; One of (text, json)")]),
    change(
        "/logging",
        "query/change logging levels",
        &[
            (
                "paths",
                "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If \
                 fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, \
                 source/common*:warning",
            ),
            (
                "group",
                "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a \
                 logger name.",
            ),
            (
                "level",
                "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)",
            ),
        ],
    ),
    entry("/memory", "print current allocation/heap usage", &[]),
    entry("/memory/tcmalloc", "print TCMalloc stats", &[]),
    entry("/peak_heap_dump", "dump peak Envoy heap (if supported)", &[]),
    change("/quitquitquit", "exit the server", &[]),
    entry("/ready", "print server state, return 200 if LIVE, otherwise return 503", &[]),
    change("/reopen_logs", "reopen access logs", &[]),
    change("/reset_counters", "reset all counters to zero", &[]),
    entry("/runtime", "print runtime values", &[]),
    change(
        "/runtime_modify",
        "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the \
         value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via \
         override but not deleted. E.g. ?key1=value1&key2=value2...",
        &[],
    ),
    entry("/server_info", "print server version/status information", &[]),
    entry(
        "/stats",
        "print server stats",
        &[
            USED,
            FILTER,
            INVERT,
            ("format", "Format to use; One of (html, active-html, text, json)"),
            ("type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
            (
                "histogram_buckets",
                "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)",
            ),
        ],
    ),
    entry(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            USED,
            (
                "text_readouts",
                "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)",
            ),
            FILTER,
            INVERT,
            ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, summary)"),
        ],
    ),
    entry("/stats/recentlookups", "Show recent stat-name lookups", &[]),
    change("/stats/recentlookups/clear", "clear list of stat-name lookups and counter", &[]),
    change("/stats/recentlookups/disable", "disable recording of reset stat-name lookup names", &[]),
    change("/stats/recentlookups/enable", "enable recording of reset stat-name lookup names", &[]),
];

/// Responds to a request. `/quitquitquit` leaves a command in `quit`, which runs after the
/// response.
pub(super) async fn respond(
    admin: &Arc<Admin>,
    request: Request<Incoming>,
    quit: &mpsc::Sender<()>,
    connection: Ends,
) -> Response<Chunked> {
    let counts = admin.http_shard();
    counts.downstream_rq_total.inc();
    if request.version() == Version::HTTP_2 {
        counts.downstream_rq_http2_total.inc();
    } else {
        counts.downstream_rq_http1_total.inc();
    }
    counts.downstream_rq_active.inc();
    let active = Active(counts);
    let path = merged_slashes(request.uri().path());
    let (version, is_head) = (request.version(), request.method() == Method::HEAD);
    let log = (!admin.context.access_log.is_empty()).then(|| Line::of(&request));
    let page = page(admin, &path, request).await;
    if let Some(line) = log {
        line.write(&admin.context.access_log, admin.context.registry.admin_shard(), connection, &page);
    }
    let counts = admin.http_shard();
    drop(active);
    counts.downstream_rq_completed.inc();
    counts.downstream_rq_codes.record(page.status);
    let ends = path == "/quitquitquit" && page.status == 200;
    let mut response = page.into_response();
    if is_head {
        *response.body_mut() = Chunked::default();
    }
    if ends && version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if ends {
        // One word is enough.
        let _ = quit.try_send(());
    }
    response
}

/// A path with one slash where there are several, as Envoy's admin interface reads it.
fn merged_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// Counts a request as active until it ends, however it ends.
struct Active<'a>(&'a HttpStats);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.downstream_rq_active.dec();
    }
}

async fn page(admin: &Arc<Admin>, path: &str, request: Request<Incoming>) -> Page {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    if let Some(refused) = refusal(request.headers(), authority) {
        return refused;
    }
    let Some(entry) = ENTRIES.iter().find(|entry| entry.path == path) else {
        return Page::error(404, format!("invalid path. {}", help()));
    };
    if entry.changes && request.method() != Method::POST {
        return Page::error(405, format!("Method {} not allowed, POST required.", request.method()));
    }
    let mut params = Params::parse(request.uri().query().unwrap_or_default());
    if entry.path == "/runtime_modify" && params.all().is_empty() {
        params = form(request).await;
    }
    if let Some(large) = large(entry.path) {
        let shared = Arc::clone(admin);
        return admin.large.build(move || large(&shared, &params)).await.unwrap_or_else(|page| page);
    }
    if entry.path == "/runtime_modify" {
        let shared = Arc::clone(admin);
        let changes = admin.large.build(move || server::runtime_changes(&shared.context, &params)).await;
        return match changes.and_then(|changes| changes) {
            Ok(changes) => admin.carry_out(Command::ModifyRuntime(changes)).await,
            Err(page) => page,
        };
    }
    show(admin, entry.path, &params).await
}

/// The pages whose cost grows with the configuration.
fn large(path: &str) -> Option<fn(&Admin, &Params) -> Page> {
    match path {
        "/stats" => Some(stats::page),
        "/stats/prometheus" => Some(prometheus::page),
        "/clusters" => Some(|admin, params| clusters::page(&admin.context, params)),
        "/config_dump" => Some(|admin, params| config_dump::page(&admin.context, params)),
        "/server_info" => Some(|admin, _| server::info(admin)),
        "/runtime" => Some(|admin, _| server::runtime(&admin.context)),
        "/listeners" => Some(|admin, params| server::listeners(&admin.context, params)),
        "/init_dump" => Some(|admin, _| server::init_dump(&admin.context)),
        "/reset_counters" => Some(|admin, _| {
            admin.context.registry.reset_counters();
            Page::ok()
        }),
        _ => None,
    }
}

async fn show(admin: &Admin, path: &str, params: &Params) -> Page {
    match path {
        "/" => Page::html(home()),
        "/help" => Page::text(help()),
        "/ready" => server::ready(admin),
        "/memory" => server::memory(),
        "/memory/tcmalloc" => Page::text("TCMalloc is not the allocator of this process.\n"),
        "/certs" => Page::json(&serde_json::json!({ "certificates": [] })),
        "/contention" => Page::text(
            "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.",
        ),
        "/heap_dump" | "/peak_heap_dump" => Page::error(501, "Heap dumps are not implemented in petmesh.\n"),
        "/heapprofiler" => Page::error(501, "The current build does not support heap profiler"),
        "/allocprofiler" => server::alloc_profiler(params),
        "/hot_restart_version" => Page::text("disabled"),
        "/cpuprofiler" => server::cpu_profiler(params),
        "/logging" => admin.logging.page(admin.context.log.as_ref(), params),
        "/stats/recentlookups" => Page::text(
            "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n",
        ),
        "/stats/recentlookups/enable" => {
            Page::error(501, "Lookup tracking is not implemented in petmesh: names are not looked up.\n")
        }
        "/quitquitquit" => Page::ok(),
        _ => match command(path, params) {
            Some(command) => admin.carry_out(command).await,
            None => Page::ok(),
        },
    }
}

fn command(path: &str, params: &Params) -> Option<Command> {
    match path {
        "/drain_listeners" => Some(Command::Drain {
            inbound_only: params.has("inboundonly"),
            graceful: params.has("graceful"),
            skip_exit: params.has("skip_exit"),
        }),
        "/healthcheck/fail" => Some(Command::FailHealthCheck(true)),
        "/healthcheck/ok" => Some(Command::FailHealthCheck(false)),
        "/reopen_logs" => Some(Command::ReopenLogs),
        _ => None,
    }
}

/// The parameters in the body of a form.
async fn form(request: Request<Incoming>) -> Params {
    let is_form =
        request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    if !is_form {
        return Params::default();
    }
    let body = Limited::new(request.into_body(), MAX_FORM).collect();
    match tokio::time::timeout(SLOWEST_REQUEST, body).await {
        Ok(Ok(body)) => Params::parse(&String::from_utf8_lossy(&body.to_bytes())),
        Ok(Err(_)) | Err(_) => Params::default(),
    }
}

fn help() -> String {
    let mut text = "admin commands are:\n".to_owned();
    for Entry { path, help, params, changes } in ENTRIES {
        let post = if *changes { " (POST)" } else { "" };
        text.push_str(&format!("  {path}{post}: {help}\n"));
        for (name, help) in *params {
            text.push_str(&format!("      {name}: {help}\n"));
        }
    }
    text
}

fn home() -> String {
    let rows =
        ENTRIES.iter().filter(|entry| entry.path != "/").map(|Entry { path, help, changes, .. }| {
            let name = path.trim_start_matches('/');
            let link = if *changes {
                format!("<form action='{name}' method='post'><button>{name}</button></form>")
            } else {
                format!("<a href='{name}'>{name}</a>")
            };
            format!("<tr><td>{link}</td><td>{}</td></tr>\n", help.replace('&', "&amp;").replace('<', "&lt;"))
        });
    let rows: String = rows.collect();
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head><title>Envoy Admin</title></head>\n<body>\n<table>\n\
         <tr><th>Command</th><th>Description</th></tr>\n{rows}</table>\n</body>\n</html>\n"
    )
}
