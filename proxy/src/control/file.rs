//! The configuration file: read, and read again when it changes or on request.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Event;
use crate::admin::accepted::Accepted;
use crate::build::files::{self, Stamp, Stamps};

/// How often files are read.
const PERIOD: Duration = Duration::from_secs(1);

/// How often a refusal is said again: the first lines soon scroll out of a log.
const REMIND: Duration = Duration::from_secs(60);

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

/// Says in one line, once a minute, that the newest configuration is not in use. `make status` reads
/// these lines.
pub(super) async fn repeat_refusal(mut accepted: watch::Receiver<Arc<Accepted>>, say: impl Fn(String)) {
    loop {
        let Some(line) = accepted.borrow_and_update().rejected.as_ref().map(ToString::to_string) else {
            match accepted.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        tokio::select! {
            changed = accepted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REMIND) => say(line),
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use xds::{Code, Diagnostic};

    use super::*;
    use crate::admin::accepted::Rejected;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_said_once_a_minute_until_it_is_over() {
        let bootstrap = xds::read_bootstrap("envoy.yaml", "{}").unwrap().message;
        let accepted = Accepted {
            bootstrap: crate::build::Packed::new(&bootstrap),
            loaded_at: crate::time::wall(),
            rejected: None,
            unbound: Vec::new(),
            warming: [].into(),
            runtime: [].into(),
        };
        let sender = watch::Sender::new(Arc::new(accepted));
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let keep = Arc::clone(&said);
        tokio::spawn(repeat_refusal(sender.subscribe(), move |line| keep.lock().unwrap().push(line)));
        let count = async |minutes: u64| {
            tokio::time::sleep(REMIND * u32::try_from(minutes).unwrap() + PERIOD).await;
            said.lock().unwrap().len()
        };
        assert_eq!(count(3).await, 0);
        let errors = xds::read_bootstrap("envoy.yaml", "admin:\n  adress: {}\n").unwrap_err();
        let refused = Rejected::new(errors, "");
        sender.send_modify(|accepted| Arc::make_mut(accepted).rejected = Some(refused));
        assert_eq!(count(3).await, 3);
        let line = said.lock().unwrap()[0].clone();
        assert!(line.starts_with("configuration refused: envoy.yaml:2:3: "), "{line}");
        assert!(line.contains("adress") && !line.contains('\n'), "{line}");
        sender.send_modify(|accepted| Arc::make_mut(accepted).rejected = None);
        assert_eq!(count(3).await, 3);
        let unreadable = Diagnostic::error("envoy.yaml", Code::Unreadable, "cannot be read".to_owned());
        let refused = Rejected::new(vec![unreadable], "");
        sender.send_modify(|accepted| Arc::make_mut(accepted).rejected = Some(refused));
        assert_eq!(count(1).await, 4);
        assert_eq!(said.lock().unwrap()[3], "configuration refused: envoy.yaml: cannot be read");
    }
}
