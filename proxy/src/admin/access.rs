//! The admin interface's own access log (`admin.access_log_path`), a line for each request in Envoy's default format.
//!
//! Part of `admin`; called by `routes`; calls `access_log`'s sink.

use std::io::Write as _;
use std::time::{Instant, SystemTime};

use hyper::Request;
use hyper::header::{AsHeaderName, HOST, HeaderMap, USER_AGENT};

use crate::access_log::Sink;
use crate::time::{self, Utc};

use super::page::Page;

/// What a line says of a request.
pub(super) struct Line {
    start: SystemTime,
    began: Instant,
    request: String,
    /// The last fields, from `x-forwarded-for` on.
    fields: String,
}

impl Line {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Self {
            start: time::wall(),
            began: Instant::now(),
            request: format!("{} {target} {:?}", request.method(), request.version()),
            fields: format!(
                r#""{}" "{}" "{}" "{}" "-""#,
                field(headers, "x-forwarded-for"),
                field(headers, USER_AGENT),
                field(headers, "x-request-id"),
                field(headers, HOST),
            ),
        }
    }

    pub(super) fn write(self, sink: &Sink, worker: usize, page: &Page) {
        let time = Utc::of(self.start).rfc3339_millis();
        let (status, sent, took) = (page.status, page.body.len(), self.began.elapsed().as_millis());
        sink.write_line(worker, |out| {
            // Writing to a vector cannot fail.
            let _ =
                writeln!(out, r#"[{time}] "{}" {status} - 0 {sent} {took} - {}"#, self.request, self.fields);
        });
    }
}

fn field(headers: &HeaderMap, name: impl AsHeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::LogWriter;
    use crate::stats::Registry;

    #[test]
    fn a_request_is_a_line_in_envoys_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.log");
        let logs = LogWriter::start(&Registry::new(1)).unwrap();
        let request = Request::get("/stats?usedonly").header(HOST, "127.0.0.1:8081").body(()).unwrap();
        Line::of(&request).write(&logs.open(&path).unwrap(), 0, &Page::ok());
        logs.flush();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(r#"Z] "GET /stats?usedonly HTTP/1.1" 200 - 0 3 "#), "{text}");
        assert!(text.ends_with("- \"-\" \"-\" \"-\" \"127.0.0.1:8081\" \"-\"\n"), "{text}");
    }
}
