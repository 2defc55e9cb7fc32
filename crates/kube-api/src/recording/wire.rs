//! HTTP/1.1 answers as bytes: head, framing, chunks.

use serde_json::Value;

/// An answer taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Header names (in small letters) and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body without framing.
    pub body: Vec<u8>,
    /// The sizes of the chunks; `None` for a body with a Content-Length.
    pub chunks: Option<Vec<usize>>,
    /// Whether the end of the body was there.
    pub complete: bool,
    /// Bytes of the input that belong to it.
    pub length: usize,
}

impl Response {
    /// A header by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The JSON documents in the body, one a line; a line that is no JSON ends it. A pretty-printed body is one.
    pub fn json_lines(&self) -> Vec<Value> {
        let stream = serde_json::Deserializer::from_slice(&self.body).into_iter();
        stream.map_while(Result::ok).collect()
    }
}

/// Reads an answer; `None` while its head is not complete. What is missing of the body shows in `complete`.
pub fn parse(bytes: &[u8]) -> Option<Response> {
    let head_end = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(bytes.get(..head_end)?);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut response = Response { status, headers, ..Response::default() };
    if response.header("transfer-encoding") == Some("chunked") {
        let (chunks, complete, end) = chunks(bytes, head_end);
        let mut sizes: Vec<_> = chunks.iter().map(|&(_, start, end)| end - start).collect();
        if complete {
            sizes.pop();
        }
        response.body = chunks.iter().flat_map(|&(_, start, end)| &bytes[start..end]).copied().collect();
        response.chunks = Some(sizes);
        response.complete = complete;
        response.length = end;
    } else {
        let length: usize =
            response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let end = bytes.len().min(head_end + length);
        response.body = bytes[head_end..end].to_vec();
        response.complete = end == head_end + length;
        response.length = end;
    }
    Some(response)
}

/// The bytes of an answer cut at its chunk borders: head, each chunk with its framing, what is left.
pub(super) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let Some(head_end) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        return if bytes.is_empty() { Vec::new() } else { vec![bytes] };
    };
    let mut cuts = vec![0, head_end];
    if parse(bytes).is_some_and(|response| response.chunks.is_some()) {
        let (chunks, _, _) = chunks(bytes, head_end);
        cuts.extend(chunks.iter().skip(1).map(|&(frame, _, _)| frame));
    }
    cuts.push(bytes.len());
    cuts.windows(2).filter_map(|pair| bytes.get(pair[0]..pair[1])).filter(|piece| !piece.is_empty()).collect()
}

/// Whether the head of a request asks for a watch.
pub(super) fn is_watch(request: &[u8]) -> bool {
    let line =
        String::from_utf8_lossy(request.split(|&byte| byte == b'\r').next().unwrap_or_default()).into_owned();
    line.contains("watch=1") || line.contains("watch=true")
}

/// Where a text begins.
pub(super) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

// Each whole chunk (the last, empty one included): start of its frame, start and end of its data. Then whether the last
// one was there, and where it ended.
fn chunks(bytes: &[u8], mut at: usize) -> (Vec<(usize, usize, usize)>, bool, usize) {
    let mut chunks = Vec::new();
    while let Some(line) = bytes.get(at..).and_then(|rest| find(rest, b"\r\n")) {
        let digits = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let Ok(size) = usize::from_str_radix(&digits, 16) else { break };
        let (start, end) = (at + line + 2, at + line + 2 + size);
        if bytes.get(end..end + 2) != Some(b"\r\n") {
            break;
        }
        chunks.push((at, start, end));
        at = end + 2;
        if size == 0 {
            return (chunks, true, at);
        }
    }
    (chunks, false, at)
}
