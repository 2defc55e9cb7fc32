//! Small servers that do what a test tells them: HTTP and DNS.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

/// What an HTTP server does with a connection.
#[derive(Clone)]
pub enum Reply {
    Whole(u16, String),
    /// Bytes that are not HTTP.
    Garbage,
    /// Reads and never responds.
    Stall,
    /// Closes at once.
    Close,
}

/// Responds to one request of each connection with the next reply, then with the last one; sends on
/// the head of each request.
pub async fn http(replies: Vec<Reply>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut replies = VecDeque::from(replies);
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            if asked.send(String::from_utf8(head).unwrap()).await.is_err() {
                return;
            }
            let reply = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() };
            match reply.unwrap() {
                Reply::Whole(status, body) => {
                    let response =
                        format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(response.as_bytes()).await.unwrap();
                }
                Reply::Garbage => stream.write_all(b"\0\0\0\0").await.unwrap(),
                Reply::Stall => held.push(stream),
                Reply::Close => {}
            }
        }
    });
    (address, requests)
}

/// What a DNS server says of every A record.
#[derive(Clone)]
pub enum Zone {
    Addresses(Vec<Ipv4Addr>),
    NoSuchName,
    Failure,
}

/// Responds to A queries from a zone that a test may change.
pub async fn dns(zone: Zone) -> (SocketAddr, Arc<Mutex<Zone>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let zone = Arc::new(Mutex::new(zone));
    let shared = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let response = dns_response(&buffer[..length], &shared.lock().unwrap());
            socket.send_to(&response, peer).await.unwrap();
        }
    });
    (address, zone)
}

/// RFC 1035, section 4.1: the header, the question as it came, then the records.
fn dns_response(query: &[u8], zone: &Zone) -> Vec<u8> {
    let labels = query[12..].iter().position(|byte| *byte == 0).unwrap();
    let question = &query[12..12 + labels + 5];
    let (code, addresses) = match zone {
        Zone::Addresses(addresses) => (0, addresses.as_slice()),
        Zone::NoSuchName => (3, &[][..]),
        Zone::Failure => (2, &[][..]),
    };
    let mut response = query[..2].to_vec();
    response.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    response.extend(question);
    for address in addresses {
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        response.extend(address.octets());
    }
    response
}
