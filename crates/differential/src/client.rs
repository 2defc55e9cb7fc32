//! The client: the requests of an exchange on one connection, and the responses as they came.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::case::{Exchange, Request};
use crate::http2::{Event, Peer};
use crate::upstream::Upstream;
use crate::wire::{Connection, Message, ended};

/// How long a client waits for a response. Responses that depend on a timeout come sooner.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The same where many requests got no response: that configuration has none to give.
const LITTLE_PATIENCE: Duration = Duration::from_millis(150);
const MANY: u32 = 3;

/// Runs an exchange; the responses, and how the connection ended. `hung` counts those without an end.
pub fn run(port: u16, exchange: &Exchange, upstream: &Upstream, hung: &AtomicU32) -> (Vec<Message>, String) {
    let many = hung.load(Ordering::Relaxed) >= MANY;
    let patience = if many { LITTLE_PATIENCE } else { PATIENCE };
    let mut responses = Vec::new();
    let ran = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .and_then(|stream| Connection::new(stream, patience))
        .and_then(|connection| {
            if exchange.http2 {
                http2(connection, exchange, upstream, &mut responses)
            } else {
                http1(connection, exchange, upstream, &mut responses)
            }
        });
    let end = match ran {
        Ok(end) => end,
        Err(error) => ended(&error).to_owned(),
    };
    if end == ended(&io::ErrorKind::TimedOut.into()) {
        hung.fetch_add(1, Ordering::Relaxed);
    }
    (responses, end)
}

const LEFT_OPEN: &str = "left open";
const WENT_AWAY: &str = "the client went away";

/// Waits until the upstream has got an attempt; false when the proxy responds itself.
fn goes_on(stream: &TcpStream, upstream: &Upstream, attempts: usize) -> io::Result<bool> {
    const STEP: Duration = Duration::from_millis(2);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && !upstream.has_got(attempts, STEP) {
        stream.set_nonblocking(true)?;
        let came = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false)?;
        if came {
            break;
        }
    }
    // What comes from the upstream comes after this is true.
    Ok(upstream.has_got(attempts, Duration::ZERO))
}

fn http1(
    mut connection: Connection,
    exchange: &Exchange,
    upstream: &Upstream,
    responses: &mut Vec<Message>,
) -> io::Result<String> {
    if exchange.pipelined {
        let bytes: Vec<u8> = exchange.requests.iter().flat_map(Request::bytes).collect();
        // The proxy may have refused the first request and closed.
        let _ = connection.send(&bytes);
    }
    for (at, request) in exchange.requests.iter().enumerate() {
        if !exchange.pipelined {
            let _ = connection.send(&request.bytes());
        }
        let last = at + 1 == exchange.requests.len();
        if exchange.abort && last && goes_on(&connection.stream, upstream, at + 1)? {
            return Ok(WENT_AWAY.to_owned());
        }
        loop {
            let mut response = connection.head()?;
            let status = response.status();
            let informational = (100..200).contains(&status) && status != 101;
            let bodiless = informational || request.is_head() || matches!(status, 101 | 204 | 304);
            connection.body(&mut response, bodiless, true);
            let over = response.framing.contains(',')
                || response.framing == "close"
                || response.header("connection").is_some_and(|value| value == "close");
            let hangs = response.framing.ends_with("nothing comes");
            responses.push(response);
            if over && !hangs {
                // Who closes first is counted, so it must not depend on time.
                return connection.closed().map(|()| LEFT_OPEN.to_owned());
            }
            if !informational {
                break;
            }
        }
    }
    Ok(LEFT_OPEN.to_owned())
}

fn http2(
    connection: Connection,
    exchange: &Exchange,
    upstream: &Upstream,
    responses: &mut Vec<Message>,
) -> io::Result<String> {
    let mut peer = Peer::client(connection)?;
    for (at, request) in exchange.requests.iter().enumerate() {
        let stream = 2 * at as u32 + 1;
        let aborts = exchange.abort && at + 1 == exchange.requests.len();
        if aborts {
            peer.settle()?;
        }
        peer.request(stream, request)?;
        if aborts && goes_on(peer.stream(), upstream, at + 1)? {
            peer.reset(stream, "CANCEL")?;
            return Ok(WENT_AWAY.to_owned());
        }
        loop {
            let mut response = match peer.next()? {
                (0, Event::GoAway(name)) if name != "NO_ERROR" => return Ok(format!("GOAWAY, {name}")),
                (_, Event::GoAway(_)) => continue,
                (found, _) if found != stream => continue,
                (_, Event::Fields(headers, true)) => {
                    let framing = "headers only".to_owned();
                    responses.push(Message { framing, ..Message::of_fields(headers) });
                    break;
                }
                (_, Event::Fields(headers, false)) => Message::of_fields(headers),
                (_, Event::Reset(name)) => {
                    let line = format!("reset, {name}");
                    responses.push(Message { line, ..Message::default() });
                    break;
                }
                (_, Event::Data(..)) => return Ok("data without headers".to_owned()),
            };
            let informational = response.line.starts_with("HTTP/2 1");
            let whole = informational || rest(&mut peer, stream, &mut response)?;
            responses.push(response);
            if !whole {
                return Ok("unreadable".to_owned());
            }
            if !informational {
                break;
            }
        }
    }
    Ok(LEFT_OPEN.to_owned())
}

/// Reads what follows the headers of a response; false when the connection ended first.
fn rest(peer: &mut Peer, stream: u32, response: &mut Message) -> io::Result<bool> {
    let mut body = Vec::new();
    loop {
        match peer.next() {
            Ok((found, event)) if found == stream => {
                if response.take(event, &mut body) {
                    return Ok(true);
                }
            }
            Ok(_) => {}
            Err(error) => {
                response.body = crate::wire::shown(&body);
                response.framing = ended(&error).to_owned();
                return Ok(false);
            }
        }
    }
}
