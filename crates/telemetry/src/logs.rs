//! Where log lines go, how they look and which are written.
//!
//! Text for people by default, `LOG_FORMAT=json` for machines; to standard error, or appended to a
//! file.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

/// What the command line says of logs; [`Default`] is what a binary without such flags wants.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`, or Envoy's `warning` and `critical`) or a list of
    /// directives as in `RUST_LOG` (`info,proxy=debug`). `None`: the variable `RUST_LOG`, else `info`.
    pub level: Option<String>,
    /// The file to append to. `None`: standard error.
    pub path: Option<PathBuf>,
}

/// Changes the level while the process runs. Clones act on the same log.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Arc<Mutex<String>>,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "'{0}' is no log level: use error, warn, info, debug, trace, off, or directives like info,proxy=debug"
    )]
    Level(String),
    #[error("LOG_FORMAT is '{0}': use text or json")]
    Format(String),
    #[error("cannot open the log file {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("logging was already set up in this process")]
    Twice,
}

/// Sets up the log of this process, once. Reads `LOG_FORMAT` (`text` or `json`) and, without a level in the options,
/// `RUST_LOG`; the flag wins over the variable.
///
/// # Errors
/// A level or format that is none, a file that cannot be opened, or a second call.
pub fn init(options: LogOptions) -> Result<LogHandle, Error> {
    let from_environment = || std::env::var("RUST_LOG").ok().filter(|level| !level.is_empty());
    let level = options.level.or_else(from_environment).unwrap_or_else(|| "info".to_owned());
    let json = match std::env::var("LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text" | "") | Err(_) => false,
        Ok(other) => return Err(Error::Format(other.to_owned())),
    };
    let colours = options.path.is_none()
        && std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let writer = match options.path {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => BoxMakeWriter::new(Arc::new(open(path)?)),
    };
    let (subscriber, handle) = build(level, json, colours, writer)?;
    subscriber.try_init().map_err(|_| Error::Twice)?;
    Ok(handle)
}

/// Checks a level for a command line (clap's `value_parser`), so that a wrong one is wrong usage.
///
/// # Errors
/// When `text` is no level; see [`LogOptions::level`].
pub fn level(text: &str) -> Result<String, Error> {
    parse(text).map(|_| text.to_owned())
}

impl LogHandle {
    /// Changes what is logged from now on; takes what [`LogOptions::level`] takes.
    ///
    /// # Errors
    /// When `level` is none; the log stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), Error> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|_| Error::Level(level.to_owned()))?;
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level.to_owned();
        Ok(())
    }

    /// The level in force, as it was given.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn build(
    level: String,
    json: bool,
    colours: bool,
    writer: BoxMakeWriter,
) -> Result<(impl Subscriber + Send + Sync, LogHandle), Error> {
    let (filter, handle) = reload::Layer::new(parse(&level)?);
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, LogHandle { filter: handle, level: Arc::new(Mutex::new(level)) }))
}

/// A bare level is ours; the libraries below us stay at `info`, else `debug` drowns in HTTP/2
/// frames. To see those writes directives (`debug,h2=trace`).
fn parse(level: &str) -> Result<EnvFilter, Error> {
    let directives = match level.to_ascii_lowercase().as_str() {
        "off" => "off",
        "critical" | "error" => "error",
        // h2 warns of what any peer can do at will: a line each would fill the log.
        "warning" | "warn" => "warn,h2=error",
        "info" => "info,h2=error",
        "debug" => "debug,h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info,tower=info",
        "trace" => "trace,h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info,tower=info",
        // A word without `=` or `,` would be read as the name of a module and silence all others.
        _ if !level.contains(['=', ',']) => return Err(Error::Level(level.to_owned())),
        _ => level,
    };
    EnvFilter::builder().parse(directives).map_err(|_| Error::Level(level.to_owned()))
}

fn open(path: PathBuf) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).open(&path).map_err(|source| Error::Open { path, source })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// The lines of a log that lives for one test, in its thread.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
        }

        pub(crate) fn capture(&self, json: bool) -> (tracing::subscriber::DefaultGuard, LogHandle) {
            let lines = self.clone();
            let writer = BoxMakeWriter::new(move || lines.clone());
            let (subscriber, handle) = build("info".to_owned(), json, false, writer).expect("a level");
            (tracing::subscriber::set_default(subscriber), handle)
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn directives(level: &str) -> String {
        parse(level).map_or_else(|error| error.to_string(), |filter| filter.to_string())
    }

    #[test]
    fn envoy_names_of_levels_are_understood() {
        assert_eq!(directives("warning"), directives("warn"));
        assert_eq!(directives("critical"), "error");
        assert_eq!(directives("INFO"), directives("info"));
    }

    #[test]
    fn what_any_peer_can_cause_in_a_library_is_not_logged() {
        assert!(directives("info").contains("h2=error") && directives("warn").contains("h2=error"));
    }

    #[test]
    fn a_bare_level_keeps_libraries_quiet_and_directives_are_taken_as_written() {
        assert!(directives("debug").contains("h2=info"));
        assert!(!directives("debug,proxy=trace").contains("h2"));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_choices() {
        for bad in ["verbose", "", "proxy=loud"] {
            let message = directives(bad);
            assert!(message.contains(&format!("'{bad}'")) && message.contains("debug"), "{message}");
        }
    }

    #[test]
    fn the_level_changes_while_running_and_a_bad_one_changes_nothing() {
        let lines = Lines::default();
        let (_guard, handle) = lines.capture(false);
        tracing::debug!("one");
        handle.set_level("debug").expect("a level");
        tracing::debug!("two");
        assert!(handle.set_level("loud").is_err());
        assert_eq!(handle.level(), "debug");
        tracing::debug!("three");
        let text = lines.text();
        assert!(!text.contains("one") && text.contains("two") && text.contains("three"), "{text}");
    }

    #[test]
    fn json_lines_carry_the_fields_on_top() {
        let lines = Lines::default();
        let (_guard, _handle) = lines.capture(true);
        tracing::info!(port = 8080, "listening");
        let line: serde_json::Value = serde_json::from_str(&lines.text()).expect("JSON");
        assert_eq!(
            (&line["message"], &line["port"], &line["level"]),
            (&"listening".into(), &8080.into(), &"INFO".into())
        );
    }
}
