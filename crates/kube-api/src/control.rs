//! `POST /_faults`: the faults over HTTP, for demonstrations and for tests in other processes.
//!
//! A body like `{"fault": "cut"}`, `{"fault": "stall", "milliseconds": 5000}`, `{"fault": "fail", "times": 3, "code": 503, "on": "watch"}`,
//! `{"fault": "delay", "milliseconds": 200}` or `{"fault": "restore", "revision": 42}`.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::answer::{self, Body};
use crate::faults::{Faults, On};
use crate::status::Status;

/// Where it lives.
pub const PATH: &str = "/_faults";

#[derive(Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    Cut,
    Stall {
        milliseconds: u64,
    },
    Clear,
    Bookmark,
    Truncate,
    GarbageLine,
    ExpireWatches,
    EndWatches,
    Compact,
    Restart,
    Restore {
        revision: u64,
    },
    Delay {
        milliseconds: u64,
    },
    Fail {
        times: u32,
        code: u16,
        #[serde(default = "all")]
        on: Which,
    },
    DownFor {
        milliseconds: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Which {
    All,
    List,
    Watch,
    Write,
}

fn all() -> Which {
    Which::All
}

/// Carries out one command.
///
/// # Errors
/// 400 with what was not understood; 410 for a restore that the history does not reach.
pub fn handle(faults: &Faults, body: &[u8]) -> Result<Response<Body>, Status> {
    let command: Command = serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("{error}; send for example {{\"fault\": \"cut\"}}")))?;
    match command {
        Command::Cut => faults.cut(),
        Command::Stall { milliseconds } => {
            // A frozen server would not read the command that releases it.
            let faults = faults.clone();
            tokio::spawn(async move {
                faults.stall(true);
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                faults.stall(false);
            });
        }
        Command::Clear => faults.clear(),
        Command::Bookmark => faults.bookmark(),
        Command::Truncate => faults.truncate(),
        Command::GarbageLine => faults.garbage_line(),
        Command::ExpireWatches => faults.expire_watches(),
        Command::EndWatches => faults.end_watches(),
        Command::Compact => faults.compact(),
        Command::Restart => faults.restart(),
        Command::Restore { revision } => faults.restore(revision)?,
        Command::Delay { milliseconds } => faults.delay(Duration::from_millis(milliseconds)),
        Command::Fail { times, code, on } => faults.fail_next(times, code, on.into()),
        Command::DownFor { milliseconds } => {
            // Nobody could send "up" to a server that is down, so it comes back by itself.
            let faults = faults.clone();
            tokio::spawn(async move {
                faults.down().await;
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                faults.up().await;
            });
        }
    }
    Ok(answer::value(StatusCode::OK, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
}

impl From<Which> for On {
    fn from(which: Which) -> Self {
        match which {
            Which::All => Self::All,
            Which::List => Self::List,
            Which::Watch => Self::Watch,
            Which::Write => Self::Write,
        }
    }
}
