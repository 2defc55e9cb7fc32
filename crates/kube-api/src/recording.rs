//! Recorded exchanges with a real API server: read them, look into them, serve their very bytes to a client.
//!
//! The recordings of kube-apiserver 1.36 lie in this crate's folder `recordings`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

pub mod replay;
pub mod wire;

pub use replay::Replay;
use wire::Response;

/// One recorded exchange.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The name of its files.
    pub name: String,
    /// What was sent; empty if only the answer was kept.
    pub request: Vec<u8>,
    /// What was received, framing included; empty if there was no answer.
    pub response: Vec<u8>,
    /// Each read: time since the connection was opened, and bytes.
    pub reads: Vec<(Duration, usize)>,
    /// How it ended.
    pub ending: Ending,
}

/// How a recorded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The answer was complete, and the connection could have been used again.
    Complete,
    /// The server broke off.
    ServerClosed,
    /// The client gave up waiting.
    ClientStopped,
    /// There was no connection.
    Refused,
}

/// The folder of the recordings, where this crate was built.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings")
}

/// The names of all recordings, whether or not they are kept here.
///
/// # Errors
/// If the manifest cannot be read.
pub fn names() -> io::Result<Vec<String>> {
    let manifest = std::fs::read_to_string(folder().join("MANIFEST"))?;
    Ok(manifest.lines().map(str::to_owned).collect())
}

impl Recording {
    /// Reads a recording of this crate by name.
    ///
    /// # Errors
    /// If its files are missing or damaged; the text names the file.
    pub fn named(name: &str) -> io::Result<Self> {
        Self::load(&folder(), name)
    }

    /// Reads a recording from a folder.
    ///
    /// # Errors
    /// As [`Recording::named`].
    pub fn load(folder: &Path, name: &str) -> io::Result<Self> {
        let path = |extension: &str| folder.join(format!("{name}.{extension}"));
        let named = |extension: &str| {
            let path = path(extension);
            std::fs::read(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let request = match path("request").exists() {
            true => named("request")?,
            false => Vec::new(),
        };
        let timing = String::from_utf8_lossy(&named("timing")?).into_owned();
        let (reads, ending) = parse_timing(&timing).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name}.timing: a broken line"))
        })?;
        Ok(Self { name: name.to_owned(), request, response: named("response")?, reads, ending })
    }

    /// The answer taken apart; `None` if there was none.
    pub fn parsed(&self) -> Option<Response> {
        wire::parse(&self.response).filter(|_| !self.response.is_empty())
    }

    /// The events of a recorded watch.
    pub fn events(&self) -> Vec<Value> {
        self.parsed().map(|response| response.json_lines()).unwrap_or_default()
    }

    /// The objects in it with `kind` and `apiVersion`: the items of a list, the object of a get, the latest state of
    /// each object of a watch.
    pub fn objects(&self) -> Vec<Value> {
        let Some(response) = self.parsed() else { return Vec::new() };
        let lines = response.json_lines();
        let Some(first) = lines.first() else { return Vec::new() };
        if let Some(items) = first["items"].as_array() {
            let kind = first["kind"].as_str().unwrap_or_default().trim_end_matches("List");
            let whole = |item: &Value| {
                let mut item = item.clone();
                item["kind"] = kind.into();
                item["apiVersion"] = first["apiVersion"].clone();
                item
            };
            return items.iter().map(whole).collect();
        }
        if first.get("type").is_none() {
            return lines;
        }
        let mut objects: Vec<Value> = Vec::new();
        for object in lines.iter().map(|event| &event["object"]) {
            let name = &object["metadata"]["name"];
            if name.is_string() {
                objects.retain(|one| one["metadata"]["name"] != *name);
                objects.push(object.clone());
            }
        }
        objects
    }

    /// The bytes of the answer, cut where the server cut them: the head, then each chunk with its framing.
    pub fn pieces(&self) -> Vec<&[u8]> {
        wire::pieces(&self.response)
    }

    /// Whether the request is a watch.
    pub fn is_watch(&self) -> bool {
        wire::is_watch(&self.request)
    }
}

fn parse_timing(text: &str) -> Option<(Vec<(Duration, usize)>, Ending)> {
    let mut reads = Vec::new();
    let mut ending = None;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            let Some((_, end)) = comment.split_once(" end: ") else { continue };
            ending = Some(match end.trim() {
                "client stopped reading" => Ending::ClientStopped,
                end if end.starts_with("complete") => Ending::Complete,
                end if end.starts_with("server closed") => Ending::ServerClosed,
                _ => Ending::Refused,
            });
            continue;
        }
        let (seconds, bytes) = line.split_once(' ')?;
        reads.push((Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?, bytes.parse().ok()?));
    }
    Some((reads, ending?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_taken_apart_at_its_recorded_borders() {
        let recording = Recording::named("03-watch").unwrap();
        assert_eq!(recording.ending, Ending::Complete);
        assert!(recording.is_watch());
        let pieces = recording.pieces();
        assert_eq!(pieces.len(), 1 + 18 + 1, "the head, 18 chunks, the last chunk");
        assert_eq!(pieces.concat(), recording.response);
        assert_eq!(recording.reads.iter().map(|(_, bytes)| bytes).sum::<usize>(), recording.response.len());
        let kinds: Vec<_> = recording.events().iter().map(|event| event["type"].clone()).collect();
        assert_eq!((kinds[0].as_str(), kinds.last().unwrap().as_str()), (Some("ADDED"), Some("BOOKMARK")));
    }

    #[test]
    fn the_items_of_a_list_are_whole_objects() {
        let objects = Recording::named("02-list-limit").unwrap().objects();
        assert_eq!(objects.len(), 2);
        assert!(objects.iter().all(|object| object["kind"] == "EndpointSlice"));
    }

    #[test]
    fn a_broken_watch_has_no_last_chunk() {
        let recording = Recording::named("13-watch-during-kill9").unwrap();
        assert_eq!(recording.ending, Ending::ServerClosed);
        assert!(!recording.parsed().unwrap().complete);
    }
}
