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
    as_text(files::read(path)?)
}

fn as_text(bytes: Vec<u8>) -> std::io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let text = format!("it is no text in UTF-8 (byte {})", error.utf8_error().valid_up_to());
        std::io::Error::new(std::io::ErrorKind::InvalidData, text)
    })
}

/// Tells the writer of each change of the configuration file.
pub(super) async fn watch(path: PathBuf, events: mpsc::Sender<Event>) {
    // The first look reads the file again, in case it changed since it was read.
    let mut known = None;
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(Look { stamp, text }) = changed(&path, known.as_ref()).await else { continue };
        known = stamp;
        if events.send(Event::Configuration(text)).await.is_err() {
            return;
        }
    }
}

/// Tells the writer when a file that the configuration takes data from has changed, as `data` has
/// them. Apart from the configuration itself, so that one of them that hangs does not keep that from
/// being read.
pub(super) async fn watch_data(mut data: watch::Receiver<Stamps>, events: mpsc::Sender<Event>) {
    loop {
        if data.borrow().is_empty() && data.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(PERIOD).await;
        let read = data.borrow_and_update().clone();
        let same = off_thread(move || read.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)).await;
        // What is built meanwhile has newer stamps.
        let changed = same == Some(false) && !data.has_changed().unwrap_or(true);
        if changed && events.send(Event::DataChanged).await.is_err() {
            return;
        }
    }
}

/// A file that was read, and its state then.
pub(super) struct Look {
    pub stamp: Option<Stamp>,
    pub text: std::io::Result<String>,
}

/// Reads a file off the control thread unless it is as it was known. One that is gone for a moment
/// is being replaced.
pub(super) async fn changed(path: &Path, known: Option<&Stamp>) -> Option<Look> {
    let (path, known) = (path.to_owned(), known.cloned());
    let look = off_thread(move || {
        let now = Stamp::of(&path);
        (now.is_some() && now != known).then(|| {
            let (stamp, bytes) = files::look(&path);
            Look { stamp, text: bytes.and_then(as_text) }
        })
    });
    look.await.flatten()
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
