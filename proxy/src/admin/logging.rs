//! `/logging`: levels by logger. Envoy's logger names map to the modules of this program with the
//! same task.

use std::sync::{Mutex, PoisonError};

use telemetry::LogHandle;

use super::page::{Page, Params};

const LEVELS: [&str; 7] = ["trace", "debug", "info", "warning", "error", "critical", "off"];

/// Envoy's loggers that have log lines here, with the targets of those. `main` is everything else.
const LOGGERS: [(&str, &[&str]); 11] = [
    ("admin", &["proxy::admin"]),
    ("config", &["proxy::control"]),
    ("conn_handler", &["proxy::listener"]),
    ("dns", &["proxy::control::dns", "hickory_resolver"]),
    ("file", &["proxy::access_log"]),
    ("filter", &["proxy::tcp"]),
    ("hc", &["proxy::control::watched"]),
    ("http", &["proxy::http1"]),
    ("main", &[]),
    ("tracing", &["proxy::control::spans"]),
    ("upstream", &["proxy::control::store", "proxy::control::sds_v1", "proxy::control::eds_file"]),
];

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
                     usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                     usage: /logging?level=<level> (change all levels)\n\
                     usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
                     levels: trace debug info warning error critical off \n";

/// The level of each logger, in the order of `LOGGERS`.
#[derive(Debug)]
pub(super) struct Levels(Mutex<[&'static str; LOGGERS.len()]>);

impl Levels {
    /// All at the current level; at `info` if that is a list of directives.
    pub(super) fn new(log: Option<&LogHandle>) -> Self {
        let given = log.map(LogHandle::level).unwrap_or_default();
        let given = if given == "warn" { "warning".to_owned() } else { given.to_ascii_lowercase() };
        Self(Mutex::new([level(&given).unwrap_or("info"); LOGGERS.len()]))
    }

    /// Changes what the parameters say, and lists the levels.
    pub(super) fn page(&self, log: Option<&LogHandle>, params: &Params) -> Page {
        let mut levels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *levels;
        let problem = change(&mut *levels, params).err().or_else(|| apply(&*levels, log).err());
        if problem.is_some() {
            *levels = before;
        }
        let mut text =
            problem.as_ref().map(|problem| format!("error: {problem}\n\n{USAGE}")).unwrap_or_default();
        text.push_str("active loggers:\n");
        for ((name, _), level) in LOGGERS.iter().zip(*levels) {
            text.push_str(&format!("  {name}: {level}\n"));
        }
        text.push('\n');
        Page { status: if problem.is_some() { 400 } else { 200 }, ..Page::text(text) }
    }
}

fn level(text: &str) -> Option<&'static str> {
    LEVELS.into_iter().find(|level| *level == text)
}

fn change(levels: &mut [&'static str], params: &Params) -> Result<(), String> {
    let [(key, value)] = params.all() else {
        return if params.all().is_empty() { Ok(()) } else { Err("invalid number of parameters".to_owned()) };
    };
    match key.as_str() {
        "level" => {
            levels.fill(level(value).ok_or("unknown logger level")?);
            Ok(())
        }
        "group" => Err("group parameter requires fine-grain logging to be enabled".to_owned()),
        "paths" => value.split(',').try_for_each(|pair| {
            let (name, to) = pair.split_once(':').unwrap_or((pair, ""));
            if name.is_empty() || to.is_empty() {
                return Err("empty logger name or empty logger level".to_owned());
            }
            change_one(levels, name, to)
        }),
        name => change_one(levels, name, value),
    }
}

fn change_one(levels: &mut [&'static str], name: &str, to: &str) -> Result<(), String> {
    let to = level(to).ok_or("unknown logger level")?;
    let at = LOGGERS.iter().position(|(logger, _)| *logger == name).ok_or("unknown logger name")?;
    if let Some(cell) = levels.get_mut(at) {
        *cell = to;
    }
    Ok(())
}

/// Hands the levels to the log: one level when all are the same, else directives.
fn apply(levels: &[&'static str], log: Option<&LogHandle>) -> Result<(), String> {
    let Some(log) = log else { return Ok(()) };
    log.set_level(&directives(levels)).map_err(|error| error.to_string())
}

fn directives(levels: &[&'static str]) -> String {
    let first = levels.first().copied().unwrap_or("info");
    if levels.iter().all(|level| *level == first) {
        return first.to_owned();
    }
    let main =
        LOGGERS.iter().zip(levels).find(|((name, _), _)| *name == "main").map_or("info", |(_, level)| *level);
    // The libraries below us stay quiet, as they do for a bare level.
    let mut text =
        format!("{},h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info,tower=info", plain(main));
    for ((_, targets), level) in LOGGERS.iter().zip(levels) {
        targets.iter().for_each(|target| text.push_str(&format!(",{target}={}", plain(level))));
    }
    text
}

/// `tracing`'s name for a level.
fn plain(level: &'static str) -> &'static str {
    match level {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(levels: &Levels, query: &str) -> (u16, String) {
        let page = levels.page(None, &Params::parse(query));
        (page.status, page.body)
    }

    #[test]
    fn levels_change_one_by_one_all_together_or_in_lists() {
        let levels = Levels::new(None);
        assert!(post(&levels, "").1.contains("\n  http: info\n"));
        assert!(post(&levels, "level=debug").1.contains("\n  dns: debug\n"));
        assert!(post(&levels, "http=trace").1.contains("\n  http: trace\n"));
        let (status, text) = post(&levels, "paths=http:info,dns:error");
        assert_eq!(status, 200);
        assert!(text.contains("\n  http: info\n") && text.contains("\n  dns: error\n"));
        assert!(text.contains("\n  admin: debug\n"));
    }

    #[test]
    fn a_wrong_request_changes_nothing_and_says_how_it_goes() {
        let levels = Levels::new(None);
        for (query, problem) in [
            ("level=nope", "error: unknown logger level\n"),
            ("nosuch=info", "error: unknown logger name\n"),
            ("router=info", "error: unknown logger name\n"),
            ("level=info&http=debug", "error: invalid number of parameters\n"),
            ("paths=http:debug,dns:bad", "error: unknown logger level\n"),
            ("paths=x", "error: empty logger name or empty logger level\n"),
        ] {
            let (status, text) = post(&levels, query);
            assert_eq!(status, 400, "{query}");
            assert!(text.starts_with(problem) && text.contains("\nusage: /logging?level=<level>"), "{text}");
            assert!(text.contains("\n  http: info\n"), "{text}");
        }
    }

    #[test]
    fn different_levels_become_directives_for_the_parts() {
        let mut levels = ["info"; LOGGERS.len()];
        assert_eq!(directives(&levels), "info");
        change_one(&mut levels, "conn_handler", "warning").unwrap();
        let text = directives(&levels);
        assert!(text.starts_with("info,h2=info") && text.contains(",proxy::listener=warn"), "{text}");
    }

    /// The sources of a module and of those below it.
    fn sources(path: &std::path::Path, found: &mut String) {
        let file = path.with_extension("rs");
        if path.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
        } else if file.is_file() {
            found.push_str(&std::fs::read_to_string(file).unwrap());
        }
    }

    #[test]
    fn every_logger_has_a_log_line_to_move() {
        for target in LOGGERS.iter().flat_map(|(_, targets)| *targets) {
            let Some(module) = target.strip_prefix("proxy::") else { continue };
            let path = format!("{}/src/{}", env!("CARGO_MANIFEST_DIR"), module.replace("::", "/"));
            let mut found = String::new();
            sources(path.as_ref(), &mut found);
            found.push_str(&std::fs::read_to_string(format!("{path}.rs")).unwrap_or_default());
            let calls =
                ["trace", "debug", "info", "warn", "error"].map(|level| format!("tracing::{level}!("));
            assert!(calls.iter().any(|call| found.contains(call)), "`{target}` has no log line");
        }
    }
}
