//! Bytes both ways between two sockets, with their timeouts; and every wait of a TCP connection.
//!
//! Each side's end is passed on when it comes, and so is a reset, also while the other side takes
//! nothing. Buffers are borrowed for as long as bytes are on their way: an idle connection holds none.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::sleep_until;

use super::time;
use crate::http1::peer_closed;

/// Bytes taken at a time in each direction.
const BUFFER: usize = 64 * 1024;
/// Buffers that a thread keeps for the next bytes.
const MAX_SPARE: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Frees the buffers that this thread keeps for the next bytes.
pub(crate) fn release_spare() {
    SPARE.with_borrow_mut(|spare| *spare = Vec::new());
}

/// What has passed, as logs print it.
#[derive(Debug, Default)]
pub(super) struct Flow {
    received: Cell<u64>,
    sent: Cell<u64>,
    /// When the last bytes came or went.
    active: Cell<Option<Instant>>,
}

/// The other places where bytes are counted.
pub(super) trait Count {
    /// From the client to the upstream.
    fn received(&self, bytes: u64);
    /// From the upstream to the client.
    fn sent(&self, bytes: u64);
}

/// What may end a connection beside its two sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) idle: Option<Duration>,
    pub(super) due: Option<Instant>,
    /// How often `until` is to return for a look.
    pub(super) tick: Option<Duration>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The client's end came last, or it went away.
    Downstream,
    DownstreamReset,
    /// The upstream's end came last, or it went away.
    Upstream,
    UpstreamReset,
    Idle,
    Duration,
}

/// What ends a connection that has no upstream yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Client,
    Duration,
}

/// How long a client that ended its side waits for its upstream: it may have sent all that it wants
/// to send, and still read.
const HALF_CLOSED: Duration = Duration::from_millis(250);

/// The waits of a connection that has no upstream yet: each ends early when the client leaves or the
/// connection becomes too old.
pub(super) struct Waits<'c> {
    pub(super) client: &'c TcpStream,
    pub(super) due: Option<Instant>,
    /// When the client was seen to have ended its side.
    pub(super) ended: Cell<Option<Instant>>,
}

impl Waits<'_> {
    pub(super) async fn race<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.client_left() => Err(Ended::Client),
            () = at(self.due) => Err(Ended::Duration),
        }
    }

    async fn client_left(&self) {
        peer_closed(self.client).await;
        let ended = self.ended.get().unwrap_or_else(time::now);
        self.ended.set(Some(ended));
        at(Some(ended + HALF_CLOSED)).await;
    }
}

impl Flow {
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    fn received(&self, bytes: u64) {
        self.received.set(self.received.get().saturating_add(bytes));
        self.active.set(Some(time::now()));
    }

    fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get().saturating_add(bytes));
        self.active.set(Some(time::now()));
    }

    fn idle_since(&self) -> Instant {
        self.active.get().unwrap_or_else(time::now)
    }
}

/// Carries until one of the limits or both sides' end.
pub(super) async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    front: &Bytes,
    flow: &Flow,
    count: &impl Count,
    limits: &Limits,
    mut look: impl FnMut(),
) -> Over {
    flow.active.set(Some(time::now()));
    let over = {
        let (mut client_rx, mut client_tx) = client.split();
        let (mut server_rx, mut server_tx) = server.split();
        let up = async {
            let passed = |bytes: u64| {
                flow.received(bytes);
                count.received(bytes);
            };
            passed(front.len() as u64);
            server_tx.write_all(front).await.map_err(|_| Over::Upstream)?;
            let cut = copy(&mut client_rx, &mut server_tx, passed).await.err();
            match cut {
                None => Ok(Over::Downstream),
                Some(Cut::Read(error)) if is_reset(&error) => Err(Over::DownstreamReset),
                // An upstream that closed before is ended by the client's writing once more.
                Some(Cut::Read(_) | Cut::Write) => Err(Over::Downstream),
            }
        };
        let down = async {
            let passed = |bytes: u64| {
                flow.sent(bytes);
                count.sent(bytes);
            };
            let cut = copy(&mut server_rx, &mut client_tx, passed).await.err();
            match cut {
                None => Ok(Over::Upstream),
                Some(Cut::Read(error)) if is_reset(&error) => Err(Over::UpstreamReset),
                Some(Cut::Read(_)) => Err(Over::Upstream),
                Some(Cut::Write) => Err(Over::Downstream),
            }
        };
        within(last(up, down), flow, limits, &mut look).await
    };
    match over {
        Over::DownstreamReset => reset_on_close(server),
        Over::UpstreamReset => reset_on_close(client),
        Over::Downstream | Over::Upstream | Over::Idle | Over::Duration => {}
    }
    over
}

/// Waits for both sides' end within the limits.
async fn within(
    both: impl Future<Output = Over>,
    flow: &Flow,
    limits: &Limits,
    look: &mut impl FnMut(),
) -> Over {
    let mut both = std::pin::pin!(both);
    let mut tick = limits.tick.map(|every| (time::now() + every, every));
    loop {
        let idle = limits.idle.map(|idle| flow.idle_since() + idle);
        tokio::select! {
            biased;
            over = &mut both => return over,
            () = at(limits.due) => return Over::Duration,
            () = at(idle) => {
                let still = limits.idle.is_some_and(|idle| time::now() >= flow.idle_since() + idle);
                if still {
                    return Over::Idle;
                }
            }
            () = at(tick.map(|(next, _)| next)) => {
                tick = tick.map(|(next, every)| (next + every, every));
                look();
            }
        }
    }
}

/// Sends back what comes.
pub(super) async fn echo(mut client: TcpStream, front: &Bytes) -> io::Result<()> {
    let (mut rx, mut tx) = client.split();
    tx.write_all(front).await?;
    copy(&mut rx, &mut tx, |_| {}).await.map_err(|cut| match cut {
        Cut::Read(error) => error,
        Cut::Write => io::ErrorKind::BrokenPipe.into(),
    })
}

/// Which of two comes last; at once when one fails.
async fn last(
    one: impl Future<Output = Result<Over, Over>>,
    other: impl Future<Output = Result<Over, Over>>,
) -> Over {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (first, rest) = tokio::select! {
        ended = &mut one => (ended, true),
        ended = &mut other => (ended, false),
    };
    let ended = match first {
        Err(over) => return over,
        Ok(_) if rest => other.await,
        Ok(_) => one.await,
    };
    ended.unwrap_or_else(|over| over)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(tokio::time::Instant::from_std(due)).await,
        None => pending().await,
    }
}

enum Cut {
    Read(io::Error),
    Write,
}

async fn copy(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, passed: impl Fn(u64)) -> Result<(), Cut> {
    loop {
        from.readable().await.map_err(Cut::Read)?;
        let mut buffer = take();
        let read = match from.try_read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                give(buffer);
                continue;
            }
            Err(error) => {
                give(buffer);
                return Err(Cut::Read(error));
            }
        };
        if read > 0 {
            passed(read as u64);
        }
        // The other side may take its time, and this one may be reset meanwhile.
        let written = tokio::select! {
            biased;
            written = to.write_all(buffer.get(..read).unwrap_or_default()) => written.map_err(|_| Cut::Write),
            _ = from.ready(Interest::ERROR) => Err(Cut::Read(io::ErrorKind::ConnectionReset.into())),
        };
        give(buffer);
        written?;
        if read == 0 {
            // A side that has gone meanwhile needs no end.
            let _ = to.shutdown().await;
            return Ok(());
        }
    }
}

fn take() -> Box<[u8]> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER].into())
}

fn give(buffer: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    });
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

/// The peer is to see a reset, as the other side did.
fn reset_on_close(stream: &TcpStream) {
    // Without it the peer sees an ordinary end.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
