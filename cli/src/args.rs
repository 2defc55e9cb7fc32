//! The command line: what can be typed, and the help texts.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use local_mesh::process::{Signal, parse_signal};

/// The pet store's service mesh on this machine: every pod as processes, with a loopback address of its own.
///
/// The folder of a mesh holds the rendered Envoy files, the logs and a kubeconfig for kubectl; it is its owner's alone.
#[derive(Debug, Parser)]
#[command(name = "petmesh", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    /// The folder of the local mesh
    #[arg(long, global = true, value_name = "DIR", default_value = local_mesh::dir::DEFAULT)]
    pub dir: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the mesh and return when the ingress answers; one supervisor process stays
    Up(Up),
    /// Show the pods: address, state, ports, log
    Ps {
        /// Print JSON instead of a table
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Output>,
    },
    /// Print a pod's log
    Logs {
        /// A pod, such as pet-1
        pod: String,
        /// Which log: of the app (the default, where there is one), of its proxy, or the proxy's access log
        #[arg(long)]
        container: Option<Container>,
        /// Go on printing what is added
        #[arg(short, long)]
        follow: bool,
    },
    /// Bring a service to a number of pods, and wait until it has them
    Scale {
        /// Service and number, such as pet=3
        #[arg(value_name = "NAME=N", value_parser = replicas)]
        replicas: (String, u32),
        /// Kill leaving pods at once, instead of letting them serve until every caller has heard of it
        #[arg(long)]
        now: bool,
    },
    /// Send a signal to all processes of a pod; it is not started again
    Kill {
        /// A pod, such as pet-1
        pod: String,
        /// Name or number of the signal
        #[arg(long, default_value = "KILL", value_parser = signal_name)]
        signal: String,
    },
    /// End pods in order and start them again, one after the other
    Restart {
        /// A pod, such as pet-1, or a service, such as pet
        #[arg(value_name = "POD|NAME")]
        name: String,
    },
    /// Stop the mesh
    Down,
    /// Work with Envoy configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The process that holds the mesh together: reads its options from standard input
    #[command(hide = true)]
    Supervise,
    /// Make the local Kubernetes API misbehave
    #[command(hide = true)]
    Fault {
        /// none, down, or unready (every slice calls every endpoint not ready)
        fault: String,
    },
    /// Become a program that ends when the process PARENT ends
    #[command(hide = true)]
    ExecChild {
        #[arg(long)]
        parent: u32,
        #[arg(long, default_value = "KILL", value_parser = parse_signal)]
        signal: Signal,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// End the process that started this one when the process PARENT ends
    #[command(hide = true)]
    WatchParent {
        #[arg(long)]
        parent: u32,
        #[arg(long, value_parser = parse_signal)]
        signal: Signal,
    },
}

#[derive(Debug, clap::Args)]
pub struct Up {
    /// How many pods of a service to start, such as pet=3; may be repeated
    #[arg(long, value_name = "NAME=N", value_parser = replicas)]
    pub replicas: Vec<(String, u32)>,
    /// Stay, and stop the mesh on ctrl-C
    #[arg(long)]
    pub foreground: bool,
    /// Where the Envoy files of the mesh are
    #[arg(long, value_name = "DIR", default_value = "deploy/config")]
    pub config_dir: PathBuf,
    /// Where the programs are [default: beside this one]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// The address of the ingress
    #[arg(long, hide = true, default_value_t = local_mesh::plan::Addresses::default().ingress)]
    pub ingress_address: Ipv4Addr,
    /// The address of the first of the other pods
    #[arg(long, hide = true, default_value_t = local_mesh::plan::Addresses::default().pods)]
    pub pod_addresses: Ipv4Addr,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check files and report every error with its place
    Validate {
        /// YAML or JSON files, as Envoy reads them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// For people or for programs
        #[arg(long, default_value = "text")]
        format: Format,
        /// Judge addresses as in a pod, also where KUBERNETES_SERVICE_HOST is not set
        #[arg(long)]
        pod: bool,
    },
    /// Say what the code of a diagnostic means and what to do; without a code, list all
    Explain {
        /// The code, as unknown-field
        code: Option<String>,
    },
    /// Print a file with the forms of 2018 as a file that today's Envoy accepts
    ///
    /// The new file goes to standard output, always as YAML, also where the old one is JSON; a notice for each change and for each
    /// field that petmesh does not implement goes to standard error. A file with errors gives no output and exit code 1.
    Upgrade {
        /// A YAML or JSON file, or - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Form of the notices on standard error: for people or for programs
        #[arg(long, default_value = "text")]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Container {
    App,
    Proxy,
    Access,
}

fn replicas(text: &str) -> Result<(String, u32), String> {
    let (name, number) = text.split_once('=').ok_or("expected a service and a number, such as pet=2")?;
    let number = number.parse().map_err(|_| format!("{number:?} is not a number of pods"))?;
    Ok((name.to_owned(), number))
}

/// Checked here, so that a wrong name is a usage error; sent by name.
fn signal_name(text: &str) -> Result<String, String> {
    parse_signal(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_interfaces_promises_can_be_typed() {
        for line in [
            "up --replicas pet=2 --replicas petstore=3 --foreground",
            "up --dir elsewhere",
            "--dir elsewhere ps",
            "ps -o json",
            "logs pet-1 --container proxy -f",
            "scale pet=0",
            "kill pet-1",
            "kill pet-1 --signal SIGTERM",
            "restart pet",
            "down",
            "config validate a.yaml b.json --format json",
            "config upgrade a.yaml",
            "config upgrade - --format json",
            "config validate a.yaml --pod",
            "config explain",
            "config explain no-router",
        ] {
            let parsed = Args::try_parse_from(["petmesh"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn wrong_usage_has_its_own_exit_code_and_says_what_was_expected() {
        for (line, said) in [
            ("scale pet", "such as pet=2"),
            ("scale pet=many", "not a number of pods"),
            ("kill pet-1 --signal STARE", "unknown signal STARE"),
            ("fly", "unrecognized subcommand"),
        ] {
            let error = Args::try_parse_from(["petmesh"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
    }
}
