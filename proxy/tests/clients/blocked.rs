//! Clients that have sent as much as the proxy reads.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::http1;
use super::proxy::{free_port, ip, wait};

/// How long nothing moves before a transfer counts as blocked. Only the way to a phase depends on
/// it.
pub const STILL: Duration = Duration::from_millis(300);

/// The connections of this machine as the kernel shows them. They may be tens of thousands, so one
/// reading serves all clients.
struct Connections(String);

impl Connections {
    fn now() -> Self {
        Self(std::fs::read_to_string("/proc/net/tcp").unwrap())
    }

    /// How many bytes of a client lie in the kernel, and the proxy does not read them. `None` where
    /// this reading missed the connection: others come and go meanwhile.
    fn unread(&self, client: &TcpStream) -> Option<usize> {
        let shown = |address: SocketAddr| match address {
            SocketAddr::V4(address) => {
                let ip = u32::from_ne_bytes(address.ip().octets());
                format!(" {ip:08X}:{:04X} ", address.port())
            }
            SocketAddr::V6(_) => panic!("{address} is in another table"),
        };
        let (theirs, ours) = (shown(client.peer_addr().unwrap()), shown(client.local_addr().unwrap()));
        let (_, row) = self.0.split_once(&format!("{theirs}{}", ours.trim_start()))?;
        let (_, unread) = row.split_whitespace().nth(1)?.split_once(':')?;
        usize::from_str_radix(unread, 16).ok()
    }
}

/// Sends until the proxy reads nothing more. With more bytes in the kernel than its window takes, the
/// end of the connection would come after them, and neither Envoy nor petmesh could see it.
pub fn block<'c>(clients: impl Iterator<Item = &'c mut http1::Connection>) {
    let mut filling: Vec<_> = clients.map(|client| (client, Instant::now())).collect();
    wait("uploads that block", || {
        let connections = Connections::now();
        filling.retain_mut(|(client, moved)| match connections.unread(&client.stream) {
            Some(1..) => moved.elapsed() < STILL,
            Some(0) => {
                client.send([b'x'; 0x1_0000]);
                *moved = Instant::now();
                true
            }
            None => true,
        });
        filling.is_empty().then_some(())
    });
}

/// Another process of this machine may have a connection between the same two ports.
#[test]
fn the_unread_bytes_of_a_connection_are_those_between_its_two_addresses() {
    let connect = |to: SocketAddr, from: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        TcpStream::from(socket)
    };
    let (server, client) = (free_port(), free_port());
    let addresses: [IpAddr; 2] = [ip(), Ipv4Addr::LOCALHOST.into()];
    let pairs: Vec<_> = addresses
        .into_iter()
        .map(|ip| {
            let listener = TcpListener::bind((ip, server)).unwrap();
            let stream = connect((ip, server).into(), (ip, client).into());
            (listener.accept().unwrap(), stream)
        })
        .collect();
    for bytes in [0, 7] {
        (&pairs[1].1).write_all(&vec![b'x'; bytes]).unwrap();
        wait("the bytes", || {
            let connections = Connections::now();
            let unread = |at: usize| connections.unread(&pairs[at].1);
            (unread(0) == Some(0) && unread(1) == Some(bytes)).then_some(())
        });
    }
}
