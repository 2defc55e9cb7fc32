//! Upstreams that follow a script, on threads of their own.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::http1;
use super::http2::{self, Fields, HEADERS};
use super::proxy::{DEADLINE, ip};

/// Opens once; who waits at it goes on then.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn pass(&self) {
        let closed = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(closed, DEADLINE * 2, |open| !*open).unwrap());
    }
}

/// Calls `serve` with each connection, on a thread of its own; the port.
pub fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let socket = TcpListener::bind((ip(), 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// HTTP/1: `respond` gets each head and its body, and writes what it likes; the connection ends
/// when it returns false.
pub fn http1(respond: impl Fn(&[u8], &[u8], &mut http1::Connection) -> bool + Send + Sync + 'static) -> u16 {
    raw(move |stream| {
        let Ok(mut connection) = http1::Connection::over(stream) else { return };
        let _ = connection.stream.set_read_timeout(None);
        while let Ok(head) = connection.until(b"\r\n\r\n") {
            let Ok(body) = connection.body(&head) else { return };
            if !respond(&head, &body.unwrap_or_default(), &mut connection) {
                return;
            }
        }
    })
}

/// HTTP/1: `respond` gets each head, not the body behind it; the connection ends when it
/// returns false.
pub fn http1_heads(respond: impl Fn(&[u8], &mut http1::Connection) -> bool + Send + Sync + 'static) -> u16 {
    raw(move |stream| {
        let Ok(mut connection) = http1::Connection::over(stream) else { return };
        let _ = connection.stream.set_read_timeout(None);
        while let Ok(head) = connection.until(b"\r\n\r\n") {
            if !respond(&head, &mut connection) {
                return;
            }
        }
    })
}

/// HTTP/2: `respond` gets the headers of each request that is whole, and gives headers and body.
pub fn http2(respond: impl Fn(&Fields) -> (Fields, Vec<u8>) + Send + Sync + 'static) -> u16 {
    raw(move |stream| {
        let _end = serve_http2(stream, &respond);
    })
}

fn serve_http2(stream: TcpStream, respond: &impl Fn(&Fields) -> (Fields, Vec<u8>)) -> std::io::Result<()> {
    let mut connection = http2::Connection::server(stream, &[])?;
    let mut open: std::collections::BTreeMap<u32, Fields> = std::collections::BTreeMap::new();
    loop {
        let frame = connection.read()?;
        if frame.kind == HEADERS {
            let fields = connection.decode(&frame)?;
            open.entry(frame.stream).or_insert(fields);
        }
        if frame.ends_stream()
            && let Some(fields) = open.remove(&frame.stream)
        {
            let (headers, body) = respond(&fields);
            connection.headers(frame.stream, &headers, body.is_empty())?;
            if !body.is_empty() {
                connection.send(http2::DATA, http2::END_STREAM, frame.stream, &body)?;
            }
        }
    }
}

/// An HTTP/1 upstream that responds 200 `ok` to everything.
pub fn ok() -> u16 {
    http1(|_, _, connection| {
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        true
    })
}
