//! The admin interface's own access logs (`admin.access_log`), for each request what a connection manager would log.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hyper::Request;
use hyper::header::HOST;

use super::page::Page;
use crate::access_log::AccessLog;
use crate::format::Context;
use crate::message::{Authority, FieldName, Path, RequestHead, ResponseHead, Version};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::time;

/// The two ends of a connection: the client's, and ours.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// What the access log of the admin interface knows of a request.
pub(super) struct Line {
    start: SystemTime,
    began: Instant,
    request: RequestHead,
}

impl Line {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let mut head = RequestHead {
            version: match request.version() {
                hyper::Version::HTTP_10 => Version::Http10,
                hyper::Version::HTTP_2 => Version::Http2,
                _ => Version::Http11,
            },
            method: request.method().as_str().try_into().unwrap_or_default(),
            ..RequestHead::default()
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        head.path = Path::new(path).unwrap_or_default();
        let host = request.headers().get(HOST).map(http::HeaderValue::as_bytes);
        let host = host.or(request.uri().authority().map(|authority| authority.as_str().as_bytes()));
        let host = host.unwrap_or_default();
        head.authority = Authority::new(host).unwrap_or_default();
        for (name, value) in request.headers() {
            if let Ok(name) = FieldName::try_from(name) {
                head.fields.push(name, value);
            }
        }
        Self { start: time::wall(), began: time::now(), request: head }
    }

    pub(super) fn write(self, logs: &[Arc<AccessLog>], worker: usize, (peer, local): Ends, page: &Page) {
        let connection = Rc::new(ConnectionInfo { id: 0, peer, local, tls: false });
        let mut info = StreamInfo::new(connection, self.request.version, self.start, self.began);
        info.status = page.status;
        info.bytes_sent = page.body.len() as u64;
        info.end = Some(time::now());
        let response = ResponseHead::new(page.status);
        let context =
            Context { request: Some(&self.request), response: Some(&response), ..Context::new(&info) };
        for log in logs {
            log.log(worker, &context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::{LogFormat, LogWriter};
    use crate::stats::Registry;

    #[test]
    fn a_request_is_a_line_in_envoys_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.log");
        let logs = LogWriter::start(&Registry::new(1)).unwrap();
        let log = Arc::new(AccessLog::new(None, LogFormat::default(), logs.open(&path).unwrap()));
        let request = Request::get("/stats?usedonly").header(HOST, "127.0.0.1:8081").body(()).unwrap();
        let ends = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:8081".parse().unwrap());
        Line::of(&request).write(&[log], 0, ends, &Page::ok());
        logs.flush();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(r#"Z] "GET /stats?usedonly HTTP/1.1" 200 - 0 3 "#), "{text}");
        assert!(text.ends_with("- \"-\" \"-\" \"-\" \"127.0.0.1:8081\" \"-\"\n"), "{text}");
    }
}
