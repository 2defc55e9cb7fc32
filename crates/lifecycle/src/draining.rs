//! The end of a listener: no connection that the kernel has accepted for it is reset.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::warn;

/// For how long a connection that was accepted last may take to send its first request, before it counts as idle.
///
/// A client that has just connected is about to send. A server that closes its connection loses the request.
pub const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// After an error of accept(2): out of file descriptors, mostly, so the next attempt would fail at once as well.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `over`, and then those that the kernel has accepted by that time.
///
/// Closing a listening socket resets what waits in its queue. Here the queue is emptied first, directly before the
/// socket is closed. Later clients are refused, so they know that no server has seen their request.
pub struct Draining {
    listener: Option<TcpListener>,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    last: VecDeque<TcpStream>,
}

impl Draining {
    /// Listens until `over` completes.
    pub fn new(listener: TcpListener, over: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { listener: Some(listener), over: Box::pin(over), last: VecDeque::new() }
    }

    /// The next connection; none once the socket is closed. May be cancelled without losing a connection.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        while let Some(listener) = &self.listener {
            let accepted = tokio::select! {
                biased;
                () = &mut self.over => {
                    self.close();
                    break;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => return Some(stream),
                // The client has left already.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
        self.last.pop_front()
    }

    /// Takes what waits until the kernel says that nothing does, and closes the socket in the same breath: the runtime
    /// hears of a new connection later than the kernel knows of it.
    fn close(&mut self) {
        let Some(Ok(listener)) = self.listener.take().map(TcpListener::into_std) else { return };
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.last.extend(adopt(stream)),
                Err(error) if is_of_connection(&error) => {}
                Err(_) => return,
            }
        }
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").field("listener", &self.listener).field("last", &self.last).finish()
    }
}

fn adopt(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
