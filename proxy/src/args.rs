//! The command line and the variables: Envoy's flags, and which file they name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum};

/// Runs Envoy configuration files: v3, and the forms of 2017 that current versions of Envoy refuse.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "proxy",
    version,
    args_override_self = true,
    after_help = "Without -c or --config-yaml the file is named by ENVOY_CONFIG_PATH or ENVOY_CONFIG, or is /etc/envoy/envoy.yaml or \
                  /etc/envoy.yaml.\nENVOY_STARTUP_PARAMS holds flags that are read before those of the command line.\n\
                  SIGTERM drains, inbound before outbound; SIGHUP reads the file again."
)]
pub(crate) struct Args {
    /// Configuration file, YAML or JSON
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,
    /// Configuration as a YAML or JSON string; no file is merged with it
    #[arg(long, value_name = "TEXT", conflicts_with = "config_path")]
    pub config_yaml: Option<String>,
    /// Serve, or only check the configuration
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// Name of the service that this proxy belongs to (`node.cluster`)
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service_cluster: String,
    /// Name of this proxy instance (`node.id`)
    #[arg(long, value_name = "NAME", default_value = "")]
    pub service_node: String,
    /// Worker threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub concurrency: Option<u16>,
    /// trace, debug, info, warning, error, critical or off
    #[arg(short, long, value_name = "LEVEL", value_parser = telemetry::level)]
    pub log_level: Option<String>,
    /// Where log lines go [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// Seconds that requests in flight get when the proxy shuts down
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_time_s: u32,
    /// How errors in the configuration are printed
    #[arg(long, value_enum, default_value_t = DiagnosticsFormat::Text)]
    pub format: DiagnosticsFormat,
    #[command(flatten)]
    pub ignored: Ignored,
}

/// Envoy's flags that have no meaning here; each is accepted with a notice.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Envoy's flags without meaning here")]
pub(crate) struct Ignored {
    #[arg(long, value_name = "ID", hide_short_help = true)]
    base_id: Option<String>,
    #[arg(long, action = ArgAction::SetTrue, hide_short_help = true)]
    use_dynamic_base_id: bool,
    #[arg(long, value_name = "MS", hide_short_help = true)]
    file_flush_interval_msec: Option<String>,
    #[arg(long, value_name = "N", hide_short_help = true)]
    restart_epoch: Option<String>,
    #[arg(long, action = ArgAction::SetTrue, hide_short_help = true)]
    v2_config_only: bool,
    #[arg(long, action = ArgAction::SetTrue, hide_short_help = true)]
    disable_hot_restart: bool,
    #[arg(long, value_name = "LEVELS", hide_short_help = true)]
    component_log_level: Option<String>,
    #[arg(long, value_name = "FORMAT", hide_short_help = true)]
    log_format: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Serve,
    Validate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiagnosticsFormat {
    Text,
    Json,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    /// `--config-yaml`.
    Text(String),
}

/// Default paths of the configuration file.
const DEFAULT_FILES: [&str; 2] = ["/etc/envoy/envoy.yaml", "/etc/envoy.yaml"];

impl Args {
    /// From the arguments and environment of the process; wrong usage exits with code 2, `--help`
    /// with 0. `name` is what `--version` says.
    pub(crate) fn from_process(name: &'static str) -> Self {
        let startup = std::env::var("ENVOY_STARTUP_PARAMS").unwrap_or_default();
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_else(|| name.into());
        let all: Vec<OsString> =
            std::iter::once(program).chain(startup.split_whitespace().map(Into::into)).chain(words).collect();
        let matches = Self::command().name(name).get_matches_from(all);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The configuration to run. The error lists the paths that were searched.
    pub(crate) fn source(
        &self,
        variable: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&str) -> bool,
    ) -> Result<Source, String> {
        if let Some(text) = &self.config_yaml {
            return Ok(Source::Text(text.clone()));
        }
        if let Some(path) = &self.config_path {
            return Ok(Source::File(path.clone()));
        }
        let named = ["ENVOY_CONFIG_PATH", "ENVOY_CONFIG"]
            .into_iter()
            .filter_map(variable)
            .find(|path| !path.is_empty());
        let default = || DEFAULT_FILES.into_iter().find(|path| exists(path)).map(str::to_owned);
        named.or_else(default).map(|path| Source::File(path.into())).ok_or_else(|| {
            format!(
                "no configuration: give one with -c FILE or --config-yaml TEXT, name it in ENVOY_CONFIG_PATH or ENVOY_CONFIG, or put it at {}",
                DEFAULT_FILES.join(" or ")
            )
        })
    }

    pub(crate) fn drain_time(&self) -> Duration {
        Duration::from_secs(u64::from(self.drain_time_s))
    }

    /// Worker threads: the requested number (0 and none mean one for each CPU within the
    /// container's quota).
    pub(crate) fn workers(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        self.concurrency.map(usize::from).filter(|count| *count > 0).unwrap_or_else(cpus)
    }
}

impl Ignored {
    /// The flags given, for the notice.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let flags = [
            (self.base_id.is_some(), "--base-id"),
            (self.use_dynamic_base_id, "--use-dynamic-base-id"),
            (self.file_flush_interval_msec.is_some(), "--file-flush-interval-msec"),
            (self.restart_epoch.is_some(), "--restart-epoch"),
            (self.v2_config_only, "--v2-config-only"),
            (self.disable_hot_restart, "--disable-hot-restart"),
            (self.component_log_level.is_some(), "--component-log-level"),
            (self.log_format.is_some(), "--log-format"),
        ];
        flags.into_iter().filter_map(|(given, name)| given.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(args: &[&str], variables: &[(&str, &str)], files: &[&str]) -> Result<Source, String> {
        let args = Args::parse_from([&["proxy"], args].concat());
        let variable = |name: &str| {
            variables.iter().find(|(have, _)| *have == name).map(|(_, value)| (*value).to_owned())
        };
        args.source(variable, |path| files.contains(&path))
    }

    #[test]
    fn the_flag_wins_over_the_variables_and_those_over_the_usual_places() {
        let variables = [("ENVOY_CONFIG", "/b"), ("ENVOY_CONFIG_PATH", "/a")];
        let files = ["/etc/envoy.yaml"];
        let file = |path: &str| Ok(Source::File(path.into()));
        assert_eq!(source(&["-c", "/c"], &variables, &files), file("/c"));
        assert_eq!(source(&[], &variables, &files), file("/a"));
        assert_eq!(source(&[], &variables[..1], &files), file("/b"));
        assert_eq!(source(&[], &[], &files), file("/etc/envoy.yaml"));
        assert!(source(&[], &[], &[]).unwrap_err().contains("ENVOY_CONFIG_PATH"));
    }

    #[test]
    fn a_later_flag_wins_so_that_the_command_line_overrides_the_startup_parameters() {
        let args =
            Args::parse_from(["proxy", "-c", "/a", "--concurrency", "2", "-c", "/b", "--concurrency", "1"]);
        assert_eq!((args.config_path, args.concurrency), (Some("/b".into()), Some(1)));
    }

    #[test]
    fn flags_without_meaning_are_accepted_and_named() {
        let args = Args::parse_from(["proxy", "--use-dynamic-base-id", "--base-id", "3"]);
        assert_eq!(args.ignored.given(), ["--base-id", "--use-dynamic-base-id"]);
        assert!(Args::try_parse_from(["proxy", "--no-such-flag"]).is_err());
    }
}
