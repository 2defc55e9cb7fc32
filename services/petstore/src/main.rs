//! The petstore service's process: arguments, logs, listen, serve until a signal, drain, exit code.
//!
//! Started by Kubernetes or `petmesh up`; calls the library beside it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use lifecycle::{Lifecycle, Outcome, exit};
use petstore::{AppState, PetClient, Settings};
use telemetry::{LogOptions, Spans};
use tokio::net::TcpListener;
use tracing::info;

/// Above the sidecar's route timeout (5 s), so that its 504 arrives first and says more.
const PET_TIMEOUT: Duration = Duration::from_secs(20);
/// For how long new requests are still answered after SIGTERM: callers need that time to learn of it.
const LINGER: Duration = Duration::from_secs(2);
/// With the two seconds for the last spans still below the 30 s after which Kubernetes kills.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Settings::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("petstore: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<u8> {
    telemetry::init(LogOptions { level: settings.log_level, path: None })?;
    let lifecycle = Lifecycle::from_signals().context("cannot listen for signals")?;
    let address = settings.listen_addr;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    info!("petstore listens on {}; pets come through {}", listener.local_addr()?, settings.sidecar_url);
    let pets = PetClient::new(&settings.sidecar_url, PET_TIMEOUT)?;
    let shutdown = lifecycle.shutdown();
    let spans = Spans::from_environment("petstore");
    let state = AppState::new(pets, shutdown.clone()).with_spans(spans.clone());
    shutdown.spawn(petstore::serve(listener, state, LINGER));
    let outcome = lifecycle.drain(DRAIN_DEADLINE).await;
    // Whoever asks twice wants the end at once.
    if !matches!(outcome, Outcome::Aborted { .. }) {
        spans.finish().await;
    }
    Ok(outcome.exit_code())
}
