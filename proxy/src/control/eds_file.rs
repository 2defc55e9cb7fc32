//! EDS from a file: a `DiscoveryResponse` in YAML or JSON, read again when it changes (`path_config_source`).
//!
//! The file must hold the assignment of the cluster's service; anything else is rejected and the
//! endpoints stay.

use std::path::PathBuf;
use std::time::Duration;

use xds::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::file::{Look, changed};
use super::{Reporter, Update};
use crate::build::{assignment, discovery::File};
use crate::cluster::Endpoint;

/// How often the file is read.
const PERIOD: Duration = Duration::from_millis(200);

/// Follows the file until the writer has gone.
pub(super) async fn run(file: File, reporter: Reporter) {
    let path = PathBuf::from(&file.path);
    let mut known = None;
    loop {
        if let Some(Look { stamp, text }) = changed(&path, known.as_ref()).await {
            known = stamp;
            if !update(&file, text, &reporter).await {
                return;
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Takes what the file has become; false when the writer has gone.
async fn update(file: &File, text: std::io::Result<String>, reporter: &Reporter) -> bool {
    let stats = reporter.stats();
    stats.update_attempt.inc();
    let read = match text {
        Ok(text) => endpoints(file, &text),
        Err(error) => {
            tracing::warn!(file = file.path, "cannot be read: {error}");
            stats.update_failure.inc();
            return reporter.tell(Update::GaveUp).await;
        }
    };
    match read {
        Ok((Some(endpoints), version)) => {
            stats.update_success.inc();
            reporter.tell(Update::Members { endpoints, version }).await
        }
        // The endpoints stay, and nothing waits for others.
        Ok((None, _)) => {
            stats.update_success.inc();
            stats.update_empty.inc();
            reporter.tell(Update::GaveUp).await
        }
        Err(problem) => {
            tracing::warn!(file = file.path, "rejected, the endpoints stay: {problem}");
            stats.update_rejected.inc();
            reporter.tell(Update::GaveUp).await
        }
    }
}

/// The endpoints, unless the file has no resource, and the file's version.
fn endpoints(file: &File, text: &str) -> Result<(Option<Vec<Endpoint>>, String), String> {
    let read = xds::read_discovery_response(&file.path, text)
        .map_err(|diagnostics| xds::render_text(&diagnostics, text))?;
    let resource = match &*read.message.resources {
        [] => return Ok((None, read.message.version_info)),
        [resource] => resource,
        many => return Err(format!("one resource is expected, there are {}", many.len())),
    };
    let found: ClusterLoadAssignment =
        xds::decode_any_checked(resource).map_err(|error| format!("the resource cannot be used: {error}"))?;
    if found.cluster_name != file.service {
        return Err(format!("it is about `{}`, not `{}`", found.cluster_name, file.service));
    }
    Ok((Some(assignment(&found)?), read.message.version_info))
}
