//! Upstreams that follow the scripts of the exchange that runs, over HTTP/1 or HTTP/2, as the proxy likes.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::latin;
use crate::http2::{self, Event, Peer};
use crate::wire::{Connection, Message};

/// What an upstream does with one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The bytes of the response, one character a byte. HTTP/2 says the same in frames.
    pub send: String,
    /// What follows the bytes.
    pub then: Then,
    /// The response comes before the body of the request is read.
    #[serde(skip_serializing_if = "is_default")]
    pub early: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The next request of the connection.
    #[default]
    GoOn,
    Close,
    Reset,
    /// Nothing, until the proxy goes away.
    Wait,
}

pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One upstream: the scripts of the exchange that runs, and what it has seen of it.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub port: u16,
    shared: Arc<(Mutex<State>, Condvar)>,
    closed: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    /// One for each attempt; the last one serves all further attempts.
    scripts: Vec<Script>,
    seen: Vec<Message>,
    /// Requests that are whole.
    got: usize,
    /// Attempts whose script is not over.
    busy: usize,
    /// The number of the current exchange. Late attempts of earlier exchanges are ignored.
    exchange: usize,
}

/// Longer than any exchange lasts.
const PATIENCE: Duration = Duration::from_secs(30);

impl Upstream {
    pub fn start() -> io::Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = socket.local_addr()?.port();
        let upstream = Self { port, shared: Arc::default(), closed: Arc::default() };
        let serving = upstream.clone();
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                if serving.closed.load(Ordering::Relaxed) {
                    return;
                }
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        Ok(upstream)
    }

    /// Ends the thread that accepts.
    pub fn stop(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.shared.1.notify_all();
    }

    /// Waits until a state is reached; whether it was.
    fn reaches(&self, patience: Duration, done: impl Fn(&State) -> bool) -> bool {
        let (state, changed) = (self.state(), &self.shared.1);
        let waited = changed.wait_timeout_while(state, patience, |state| !done(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    pub fn begin(&self, scripts: &[Script]) {
        self.change(|state| {
            let exchange = state.exchange + 1;
            *state = State { scripts: scripts.to_vec(), exchange, ..State::default() };
        });
    }

    /// Waits for the requests of that many attempts.
    pub fn has_got(&self, attempts: usize, patience: Duration) -> bool {
        self.reaches(patience, |state| state.got >= attempts)
    }

    /// Waits until something more has come, or for so long.
    pub fn has_changed(&self, patience: Duration) {
        let before = self.state().seen.len();
        self.reaches(patience, |state| state.seen.len() != before);
    }

    /// What came, once all scripts are over.
    pub fn seen(&self) -> Vec<Message> {
        self.reaches(Duration::from_secs(2), |state| state.busy == 0);
        let mut seen = self.state().seen.clone();
        seen.sort_by_key(Message::is_mirrored);
        seen
    }

    fn next(&self, message: &Message) -> Attempt<'_> {
        let mut attempt =
            Attempt { upstream: self, exchange: 0, at: 0, script: Script::default(), bodiless: false };
        self.change(|state| {
            attempt.exchange = state.exchange;
            attempt.at = state.seen.len();
            // A mirrored request comes at any time: the scripts are for the others.
            let before = state.seen.iter().filter(|seen| !seen.is_mirrored()).count();
            let own = state.scripts.get(before).filter(|_| !message.is_mirrored());
            let script = own.or(state.scripts.last());
            attempt.script = script.cloned().unwrap_or_default();
            state.seen.push(message.clone());
            state.busy += 1;
        });
        attempt.bodiless = message.line.starts_with("HEAD ");
        if attempt.bodiless {
            attempt.script.send = without_body(&attempt.script.send);
        }
        attempt
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(mut connection) = Connection::new(stream, PATIENCE) else { return };
        match connection.begins_with(http2::PREFACE) {
            Ok(true) => drop(self.serve_http2(connection)),
            _ => self.serve_http1(connection),
        }
    }

    fn serve_http1(&self, mut connection: Connection) {
        while let Ok(mut message) = connection.head() {
            let attempt = self.next(&message);
            if attempt.script.early {
                "not read".clone_into(&mut message.framing);
            } else {
                connection.body(&mut message, false, false);
            }
            attempt.saw(message);
            if connection.send(&latin(&attempt.script.send)).is_err() {
                return;
            }
            match attempt.script.then {
                Then::GoOn if attempt.script.early => return,
                Then::GoOn => {}
                Then::Close => {
                    let _ = connection.stream.shutdown(Shutdown::Write);
                    return;
                }
                Then::Reset => return reset(&connection.stream),
                Then::Wait => return drop(connection.closed()),
            }
        }
    }

    fn serve_http2(&self, connection: Connection) -> io::Result<()> {
        let mut peer = Peer::server(connection)?;
        let mut streams: BTreeMap<u32, (Attempt<'_>, Message, Vec<u8>, bool)> = BTreeMap::new();
        loop {
            let (stream, event) = peer.next()?;
            let (ends, attempt) = match (event, streams.remove(&stream)) {
                (Event::GoAway(_), _) => continue,
                (Event::Fields(headers, ends), None) => {
                    let mut message = Message::of_fields(headers);
                    if ends {
                        "headers only".clone_into(&mut message.framing);
                    }
                    let attempt = self.next(&message);
                    (ends || attempt.script.early, (attempt, message, Vec::new(), false))
                }
                // What comes for a stream that has its response already.
                (_, None) => continue,
                (event, Some((attempt, mut message, mut body, responded))) => {
                    let reset = matches!(event, Event::Reset(_));
                    let ends = message.take(event, &mut body);
                    if reset || responded {
                        attempt.saw(message);
                        continue;
                    }
                    (ends, (attempt, message, body, responded))
                }
            };
            if !ends {
                streams.insert(stream, attempt);
                continue;
            }
            let (attempt, mut message, body, _) = attempt;
            if attempt.script.early && message.framing.is_empty() {
                "not read".clone_into(&mut message.framing);
            }
            attempt.saw(message.clone());
            if !respond(&mut peer, stream, &attempt)? {
                return Ok(());
            }
            if attempt.script.then == Then::Wait {
                streams.insert(stream, (attempt, message, body, true));
            }
        }
    }
}

/// One attempt, until its script is over.
struct Attempt<'u> {
    upstream: &'u Upstream,
    exchange: usize,
    at: usize,
    script: Script,
    /// The response to HEAD.
    bodiless: bool,
}

impl Attempt<'_> {
    fn saw(&self, message: Message) {
        self.upstream.change(|state| {
            if state.exchange == self.exchange
                && let Some(place) = state.seen.get_mut(self.at)
            {
                *place = message;
                state.got += 1;
            }
        });
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.upstream.change(|state| {
            if state.exchange == self.exchange {
                state.busy = state.busy.saturating_sub(1);
            }
        });
    }
}

/// Sends a script's response as frames; false if the connection is to end.
fn respond(peer: &mut Peer, stream: u32, attempt: &Attempt<'_>) -> io::Result<bool> {
    let Attempt { script, bodiless, .. } = attempt;
    let bytes = latin(&script.send);
    let mut input = Connection::of_bytes(&bytes);
    let mut whole = false;
    while let Ok(mut response) = input.head() {
        let status = response.status();
        let informational = (100..200).contains(&status) && status != 101;
        let none = *bodiless || informational || matches!(status, 101 | 204 | 304);
        input.body(&mut response, none, true);
        let mut fields = http2::pairs(&response.headers);
        fields.retain(|(name, _)| !OF_HTTP1.contains(&&**name));
        fields.insert(0, (":status".to_owned(), status.to_string()));
        let cut = response.framing.contains(',');
        let (body, trailers) = (latin(&response.body), http2::pairs(&response.trailers));
        let bare = body.is_empty() && trailers.is_empty() && !cut && !informational;
        peer.fields(stream, &fields, bare)?;
        if !body.is_empty() {
            peer.data(stream, &body, trailers.is_empty() && !cut)?;
        }
        if !trailers.is_empty() {
            peer.fields(stream, &trailers, true)?;
        }
        whole = !cut && !informational;
        if whole {
            break;
        }
    }
    match script.then {
        Then::Wait => return Ok(true),
        Then::GoOn | Then::Close if whole => {}
        Then::Close => return Ok(false),
        Then::GoOn => peer.reset(stream, "PROTOCOL_ERROR")?,
        Then::Reset => peer.reset(stream, "INTERNAL_ERROR")?,
    }
    if script.then == Then::Close {
        peer.go_away(stream)?;
    }
    Ok(true)
}

/// Headers that HTTP/2 has no place for.
const OF_HTTP1: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// The bytes of responses up to the end of the final one's headers.
fn without_body(send: &str) -> String {
    let mut end = 0;
    while let Some(at) = send.get(end..).and_then(|rest| rest.find("\r\n\r\n")) {
        let informational = send.get(end..).is_some_and(|rest| rest.starts_with("HTTP/1.1 1"));
        end += at + 4;
        if !informational {
            return send.get(..end).unwrap_or(send).to_owned();
        }
    }
    send.to_owned()
}

/// Closes so that the peer gets a reset: unread bytes are left behind.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
