//! `petmesh logs`: a pod's log, also that of a mesh that has ended.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use local_mesh::dir::Dir;

use crate::args::Container;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Prints the log; with `follow` until ctrl-C.
pub fn logs(dir: &Dir, pod: &str, container: Option<Container>, follow: bool) -> Result<()> {
    let existing = dir.pods();
    if existing.is_empty() {
        bail!(local_mesh::Error::NotRunning(dir.path().to_owned()));
    }
    if !existing.iter().any(|name| name == pod) {
        bail!(local_mesh::Error::Unknown { kind: "pod", name: pod.to_owned(), existing });
    }
    let path = match container {
        Some(Container::Access) => dir.access_log(pod),
        Some(Container::Proxy) => dir.log(pod, "proxy"),
        Some(Container::App) => dir.log(pod, "app"),
        None => [dir.log(pod, "app"), dir.log(pod, "proxy")]
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_default(),
    };
    if !path.exists() {
        bail!("{pod} has no such log: there is no {}", path.display());
    }
    print(&path, follow)
}

fn print(path: &Path, follow: bool) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut out = std::io::stdout();
    loop {
        if let Err(error) = std::io::copy(&mut file, &mut out).and_then(|_| out.flush()) {
            // The reader has seen enough (`petmesh logs pet-1 | head`).
            return if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error.into()) };
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        // A new mesh begins its logs anew.
        if std::fs::metadata(path).is_ok_and(|now| file.stream_position().is_ok_and(|at| now.len() < at)) {
            file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        }
    }
}
