//! The discovery service's process: settings, logs, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use lifecycle::exit;
use sds::settings::{Flags, Settings, Surroundings};
use tracing::error;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let settings = match Settings::settle(&flags, &Surroundings::of_process()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("sds: {error}");
            return ExitCode::from(if error.is_usage() { exit::USAGE } else { exit::FAILED });
        }
    };
    if let Err(error) = telemetry::init(telemetry::LogOptions::default()) {
        eprintln!("sds: {error}");
        return ExitCode::from(exit::FAILED);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(sds::app::run(&settings)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            error!("{error}");
            ExitCode::from(exit::FAILED)
        }
    }
}
