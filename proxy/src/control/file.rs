//! The configuration file: read, and read again when it changes or on request.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Event;
use crate::build::files::{self, Stamp, Stamps};

/// How often files are read.
const PERIOD: Duration = Duration::from_secs(1);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(PathBuf),
    /// A string of the command line, which never changes.
    Text,
}

/// The text of a file within the limit.
pub fn read(path: &Path) -> std::io::Result<String> {
    String::from_utf8(files::read(path)?).map_err(|error| {
        let text = format!("it is no text in UTF-8 (byte {})", error.utf8_error().valid_up_to());
        std::io::Error::new(std::io::ErrorKind::InvalidData, text)
    })
}

/// Tells the writer of each change of the configuration file, and of the files that it takes data from, as `data` has them.
pub(super) async fn watch(
    path: Option<PathBuf>,
    mut data: watch::Receiver<Stamps>,
    events: mpsc::Sender<Event>,
) {
    // The first look reads the file again, in case it changed since it was read.
    let mut known = None;
    loop {
        let nothing = path.is_none() && data.borrow().is_empty();
        if nothing && data.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(PERIOD).await;
        let read = data.borrow_and_update().clone();
        let stamps = off_thread({
            let path = path.clone();
            move || {
                let same = read.iter().all(|(path, stamp)| Stamp::of(path) == *stamp);
                (path.and_then(|path| Stamp::of(&path)), same)
            }
        });
        let Some((now, same)) = stamps.await else { continue };
        // A file that is gone for a moment is being replaced.
        let event = match &path {
            Some(path) if now.is_some() && now != known => {
                known = now;
                Event::Configuration(text(path.clone()).await)
            }
            // What is built meanwhile has newer stamps.
            _ if !same && !data.has_changed().unwrap_or(true) => Event::DataChanged,
            _ => continue,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Reads a file off the control thread.
pub(super) async fn text(path: PathBuf) -> std::io::Result<String> {
    let reading = off_thread(move || read(&path)).await;
    reading.unwrap_or_else(|| Err(std::io::Error::other("the reading task ended")))
}

/// Runs what may block.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
