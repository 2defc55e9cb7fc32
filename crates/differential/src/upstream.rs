//! Upstreams that follow a script. The request names it (`x-script`), so one upstream serves every exchange.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::{Connection, Message};

/// What an upstream does with one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The bytes of the response, one character a byte. Nothing closes without a response.
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
}

pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One upstream: the scripts of the exchange that runs, and what it has seen of it.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub port: u16,
    state: Arc<Mutex<State>>,
    closed: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    /// One for each attempt; the last one serves all further attempts.
    scripts: Vec<Script>,
    seen: Vec<Message>,
}

/// Longer than any exchange lasts.
const PATIENCE: Duration = Duration::from_secs(30);

impl Upstream {
    pub fn start() -> io::Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = socket.local_addr()?.port();
        let upstream = Self { port, state: Arc::default(), closed: Arc::default() };
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

    pub fn begin(&self, scripts: &[Script]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.clone_into(&mut state.scripts);
        state.seen.clear();
    }

    pub fn seen(&self) -> Vec<Message> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen.clone()
    }

    fn next(&self) -> (usize, Script) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = state.seen.len();
        let script = state.scripts.get(attempt).or(state.scripts.last()).cloned().unwrap_or_default();
        state.seen.push(Message::default());
        (attempt, script)
    }

    fn saw(&self, attempt: usize, message: Message) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.seen.get_mut(attempt) {
            *place = message;
        }
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(mut connection) = Connection::new(stream, PATIENCE) else { return };
        while let Ok(mut message) = connection.head() {
            let (attempt, script) = self.next();
            if script.early {
                "not read".clone_into(&mut message.framing);
            } else {
                connection.body(&mut message, false, false);
            }
            self.saw(attempt, message);
            let bytes: Vec<u8> = script.send.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
            if connection.send(&bytes).is_err() {
                return;
            }
            match script.then {
                Then::GoOn if script.early => return,
                Then::GoOn => {}
                Then::Close => {
                    let _ = connection.stream.shutdown(Shutdown::Write);
                    return;
                }
                Then::Reset => return reset(&connection.stream),
            }
        }
    }
}

/// Closes so that the peer gets a reset: unread bytes are left behind.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
