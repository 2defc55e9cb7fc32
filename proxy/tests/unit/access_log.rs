//! Access log filters, and the writer: nothing is lost below its bound, and what is dropped is counted.
//!
//! Test-only.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::error::Flag;
use crate::message::{RequestHead, Version};
use crate::stats::{FilesystemStats, Registry};
use crate::stream_info::{ConnectionInfo, StreamInfo};

fn info(status: u16) -> StreamInfo {
    let address = "127.0.0.1:1".parse().unwrap();
    let connection = ConnectionInfo { id: 1, peer: address, local: address, tls: false };
    let start = crate::time::now();
    let mut info = StreamInfo::new(Rc::new(connection), Version::Http11, UNIX_EPOCH, start);
    info.status = status;
    info.end = Some(start + Duration::from_millis(40));
    info
}

fn context<'a>(info: &'a StreamInfo, request: Option<&'a RequestHead>) -> Context<'a> {
    Context { info, request, response: None, response_trailers: None, local_reply_body: "" }
}

fn compare(operation: Operation, value: u64) -> Comparison {
    Comparison { operation, value }
}

#[test]
fn each_filter_means_what_envoys_does() {
    let mut info = info(503);
    info.flags.set(Flag::NoHealthyUpstream);
    let request = RequestHead::default();
    let passes = |filter: LogFilter| filter.passes(&context(&info, Some(&request)));
    for (operation, value, expected) in [
        (Operation::Equal, 503, true),
        (Operation::Equal, 200, false),
        (Operation::AtLeast, 500, true),
        (Operation::AtLeast, 504, false),
        (Operation::AtMost, 503, true),
        (Operation::AtMost, 499, false),
        (Operation::NotEqual, 200, true),
        (Operation::NotEqual, 503, false),
    ] {
        assert_eq!(
            passes(LogFilter::StatusCode(compare(operation, value))),
            expected,
            "{operation:?} {value}"
        );
    }
    assert!(passes(LogFilter::Duration(compare(Operation::AtLeast, 40))));
    assert!(!passes(LogFilter::Duration(compare(Operation::AtLeast, 41))));
    assert!(passes(LogFilter::NotHealthCheck));
    assert!(passes(LogFilter::ResponseFlag(Vec::new())));
    assert!(passes(LogFilter::ResponseFlag(vec![Flag::UpstreamOverflow, Flag::NoHealthyUpstream])));
    assert!(!passes(LogFilter::ResponseFlag(vec![Flag::UpstreamOverflow])));
    let (yes, no) = (|| LogFilter::NotHealthCheck, || LogFilter::ResponseFlag(vec![Flag::RateLimited]));
    assert!(passes(LogFilter::And(vec![yes(), yes()])));
    assert!(!passes(LogFilter::And(vec![yes(), no()])));
    assert!(passes(LogFilter::Or(vec![no(), yes()])));
    assert!(!passes(LogFilter::Or(vec![no(), no()])));
}

#[test]
fn an_exchange_that_has_not_ended_passes_no_duration_filter() {
    let mut info = info(200);
    info.end = None;
    let filter = LogFilter::Duration(compare(Operation::AtLeast, 0));
    assert!(!filter.passes(&context(&info, None)));
}

struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    registry: Registry,
    writer: LogWriter,
}

impl Fixture {
    fn new(workers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(workers);
        let writer = LogWriter::start(&registry).unwrap();
        Self { path: folder.path().join("access.log"), _folder: folder, registry, writer }
    }

    fn log(&self, format: &str) -> AccessLog {
        let format = LogFormat::Text(Format::parse(format).unwrap());
        AccessLog::new(None, format, self.writer.open(&self.path).unwrap())
    }

    fn lines(&self) -> usize {
        std::fs::read_to_string(&self.path).unwrap().lines().count()
    }
}

#[test]
fn several_workers_lines_are_all_written_and_each_is_whole() {
    let fixture = Fixture::new(3);
    let log = fixture.log("line of %RESPONSE_CODE%\n");
    std::thread::scope(|threads| {
        for worker in 0..3 {
            let log = &log;
            threads.spawn(move || {
                let info = info(200);
                (0..5_000).for_each(|_| log.log(worker, &context(&info, None)));
            });
        }
    });
    fixture.writer.flush();
    let text = std::fs::read_to_string(&fixture.path).unwrap();
    assert!(text.lines().all(|line| line == "line of 200"));
    assert_eq!(text.lines().count(), 15_000);
}

#[test]
fn lines_beyond_the_bound_are_dropped_and_counted() {
    let fixture = Fixture::new(1);
    // A sink that nothing drains: its buffer is the writer's, but the writer does not know it.
    let sink = writer::tests::undrained(&fixture.writer);
    let log = AccessLog::new(None, LogFormat::Text(Format::parse(&"x".repeat(1_024)).unwrap()), sink);
    let info = info(200);
    (0..1_500).for_each(|_| log.log(0, &context(&info, None)));
    let stats: Arc<crate::stats::Scope<FilesystemStats>> = fixture.registry.scope("filesystem.");
    assert_eq!(stats.shard(0).write_buffered.get(), 1_024);
    assert_eq!(stats.shard(0).write_dropped.get(), 476);
}

#[test]
fn the_writer_writes_what_is_left_when_it_ends() {
    let fixture = Fixture::new(1);
    let log = fixture.log("x\n");
    log.log(0, &context(&info(200), None));
    let (path, writer) = (fixture.path.clone(), fixture.writer);
    drop(writer);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "x\n");
}

#[test]
fn a_file_that_was_moved_away_is_made_again_on_reopen() {
    let fixture = Fixture::new(1);
    let log = fixture.log("x\n");
    log.log(0, &context(&info(200), None));
    fixture.writer.flush();
    let moved = fixture.path.with_extension("1");
    std::fs::rename(&fixture.path, &moved).unwrap();
    fixture.writer.reopen();
    fixture.writer.flush();
    log.log(0, &context(&info(200), None));
    fixture.writer.flush();
    assert_eq!(fixture.lines(), 1);
    assert_eq!(std::fs::read_to_string(moved).unwrap(), "x\n");
}

#[test]
fn two_logs_of_one_path_share_the_file_and_a_path_that_cannot_be_opened_is_named() {
    let fixture = Fixture::new(1);
    let (first, second) = (fixture.log("a\n"), fixture.log("b\n"));
    first.log(0, &context(&info(200), None));
    second.log(0, &context(&info(200), None));
    fixture.writer.flush();
    assert_eq!(std::fs::read_to_string(&fixture.path).unwrap(), "a\nb\n");
    let problem = fixture.writer.open(&fixture.path.join("x")).unwrap_err().to_string();
    assert!(
        problem.starts_with("cannot open the log file ") && problem.contains("access.log/x: "),
        "{problem}"
    );
}
