//! Tests of the HTTP/1 codec: heads, bodies, a server's and a client's connection over real sockets.

use tokio::net::{TcpListener, TcpStream};

mod bodies;
mod client;
mod heads;
mod server;

/// Both ends of a connection over loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (client, server) = (client.unwrap(), server.unwrap().0);
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}
