//! One address for several pods of the ingress, as the NodePort of a cluster: each new connection goes to the next ready pod.
//!
//! Bytes are passed on as they come; no connection is kept, shared or tried again. A pod that leaves gets no new connection and
//! keeps those that it has.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};

/// Where connections may go; written by whoever knows the pods.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<Mutex<Vec<SocketAddr>>>);

impl Ready {
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock().unwrap() = addresses;
    }

    fn next(&self, turn: usize) -> Option<SocketAddr> {
        let addresses = self.0.lock().unwrap();
        addresses.get(turn.checked_rem(addresses.len())?).copied()
    }
}

/// Opens the port; it is served until the runtime ends.
pub async fn open(ready: Ready) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    tokio::spawn(async move {
        let mut turn = 0;
        while let Ok((stream, _)) = listener.accept().await {
            turn += 1;
            // Nobody is ready: the connection is closed at once, nearest to what kube-proxy's REJECT does.
            if let Some(pod) = ready.next(turn) {
                tokio::spawn(pass(stream, pod));
            }
        }
    });
    address
}

async fn pass(mut client: TcpStream, pod: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(pod).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
