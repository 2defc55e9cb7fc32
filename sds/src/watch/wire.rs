//! The JSON of lists and watches, and the cutting of a watch into lines.

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;

use super::error::WatchError;
use crate::slice::EndpointSlice;

/// The largest event we take. etcd refuses objects above 1.5 MiB; JSON of them stays well below this.
const LONGEST_LINE: usize = 16 << 20;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub metadata: ListMetadata,
    #[serde(default)]
    pub items: Option<Vec<EndpointSlice>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub resource_version: String,
    #[serde(default, rename = "continue")]
    pub next: Option<String>,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub(super) enum Event {
    Added(EndpointSlice),
    Modified(EndpointSlice),
    Deleted(EndpointSlice),
    /// Nothing has happened up to this version.
    Bookmark(Bookmark),
    /// The end of the watch; 410 when the version is too old.
    Error(Status),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Bookmark {
    pub metadata: BookmarkMetadata,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    pub resource_version: String,
}

/// Kubernetes' error object, as far as we read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reason: String,
}

/// Gathers bytes until lines are complete. What is left at the end of a stream is no event: we go on from the last
/// version seen, so the API server sends it again.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: BytesMut,
    /// How much of `rest` is known to hold no line end.
    searched: usize,
}

impl Lines {
    pub fn push(&mut self, bytes: &Bytes) -> Result<(), WatchError> {
        if self.rest.len() + bytes.len() > LONGEST_LINE {
            return Err(WatchError::Garbage(format!(
                "a line of the watch is longer than {LONGEST_LINE} bytes"
            )));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete line as an event; empty lines are skipped.
    pub fn next(&mut self) -> Option<Result<Event, WatchError>> {
        loop {
            let Some(end) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.rest.len();
                return None;
            };
            let line = self.rest.split_to(self.searched + end);
            self.rest.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Some(event(&line));
            }
        }
    }
}

fn event(line: &[u8]) -> Result<Event, WatchError> {
    serde_json::from_slice(line).map_err(|error| {
        let start = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
        WatchError::Garbage(format!("{error} in the event that starts with `{start}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &str = r#"{"type":"ADDED","object":{"kind":"EndpointSlice","metadata":{"name":"pet-1","namespace":"shop","resourceVersion":"7","managedFields":[{"manager":"x"}]},"addressType":"IPv4","endpoints":null,"ports":null}}"#;

    fn read(pieces: &[&str]) -> Vec<Result<Event, WatchError>> {
        let mut lines = Lines::default();
        let mut events = Vec::new();
        for piece in pieces {
            lines.push(&Bytes::copy_from_slice(piece.as_bytes())).unwrap();
            events.extend(std::iter::from_fn(|| lines.next()));
        }
        events
    }

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        let text = format!(
            "{ADDED}\n\n{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"9\"}}}}}}\n"
        );
        let whole = read(&[&text]);
        assert_eq!(whole.len(), 2, "{whole:?}");
        for cut in 1..text.len() {
            assert_eq!(read(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_recorded_watch_reads_the_same_in_pieces_of_any_size() {
        let recording = kube_api::recording::Recording::named("03-watch").unwrap();
        let lines: Vec<String> = recording.events().iter().map(|event| format!("{event}\n")).collect();
        let text = lines.concat();
        let whole = read(&[&text]);
        assert_eq!(whole.len(), lines.len());
        assert!(whole.iter().all(Result::is_ok), "{whole:?}");
        for size in [1, 7, 2048, 4096] {
            let pieces: Vec<&str> =
                text.as_bytes().chunks(size).map(|one| str::from_utf8(one).unwrap()).collect();
            assert_eq!(read(&pieces), whole, "pieces of {size} bytes");
        }
    }

    #[test]
    fn a_garbage_line_is_told_and_the_next_line_still_read() {
        let events = read(&["{\"type\":\"ADDED\",\"obj\n", ADDED, "\n"]);
        assert!(
            matches!(&events[0], Err(WatchError::Garbage(why)) if why.contains("{\"type\"")),
            "{events:?}"
        );
        assert!(matches!(&events[1], Ok(Event::Added(slice)) if slice.metadata.name == "pet-1"));
    }

    #[test]
    fn an_unfinished_last_line_is_no_event() {
        assert_eq!(read(&[ADDED]), []);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let piece = Bytes::from(vec![b'x'; 1 << 20]);
        let refused = (0..20).find_map(|_| lines.push(&piece).err());
        assert!(matches!(refused, Some(WatchError::Garbage(_))));
    }
}
