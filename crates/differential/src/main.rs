//! The judge: generates configurations, requests and upstreams, runs Envoy and petmesh on them side by side, and prints
//! each difference as the smallest case that shows it.

mod case;
mod client;
mod compare;
mod configuration;
mod hpack;
mod http2;
mod judge;
mod mutation;
mod pair;
mod shrink;
mod traffic;
mod trial;
mod upstream;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Compares petmesh with Envoy on generated configurations and requests.
#[derive(Debug, Parser)]
#[command(name = "differential", version)]
struct Args {
    /// The same seed gives the same configurations and requests. By default the time of day.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// How long to go on.
    #[arg(long, env = "MINUTES", default_value_t = 10.0)]
    minutes: f64,
    /// Stop after so many batches of configurations, however much time is left.
    #[arg(long)]
    batches: Option<usize>,
    /// Envoy's program.
    #[arg(long, env = "ENVOY", default_value = "envoy")]
    envoy: PathBuf,
    /// petmesh's proxy.
    #[arg(long, default_value = "target/debug/proxy")]
    proxy: PathBuf,
    /// Run the cases in these files or folders instead of generated ones.
    #[arg(long, num_args = 1..)]
    cases: Vec<PathBuf>,
    /// Write each difference as a case into this folder.
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Look only at differences that match this regular expression.
    #[arg(long)]
    only: Option<regex::Regex>,
    /// Shrink at most so many differences of different kinds; the others are counted.
    #[arg(long, default_value_t = 30)]
    limit: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let options = judge::Options {
        seed,
        lasts: Duration::from_secs_f64(args.minutes.max(0.0) * 60.0),
        batches: args.batches.unwrap_or(usize::MAX),
        programs: pair::Programs { envoy: args.envoy, petmesh: args.proxy },
        out: args.out,
        limit: args.limit,
        only: args.only,
    };
    let verdict =
        if args.cases.is_empty() { judge::generated(&options) } else { judge::replay(&options, &args.cases) };
    match verdict {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
