//! What becomes of the connections of a listener, or of a filter chain, that is no longer configured.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::fixture::{Client, ECHO, Process, Upstream, free_port, http, listener, wait};

const ROUTE: &str = "route: { cluster: one, timeout: 60s }";

/// Sends a byte and reads it back.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"x"
}

/// A connection from this loopback address.
fn from(source: Ipv4Addr, port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

#[test]
fn all_connections_of_a_removed_listener_end_within_the_drain_time() {
    // Where one worker accepts for all, half of the connections come through the inbox of the other.
    for more in ["", "enable_reuse_port: false,"] {
        let upstream = Upstream::start();
        let (web, tcp, stays) = (free_port(), free_port(), free_port());
        let chains = |filters: &str| format!("{more} filter_chains: [{{ {filters} }}]");
        let all = [
            listener("web", "127.0.0.1", web, &chains(&http("web", ROUTE))),
            listener("tcp", "127.0.0.1", tcp, &chains(ECHO)),
            listener("stays", "127.0.0.1", stays, &chains(ECHO)),
        ];
        let proxy = Process::start(2, &all, upstream.port);
        let mut idle: Vec<Client> = (0..4).map(|_| Client::new(web).unwrap()).collect();
        for client in &mut idle {
            assert_eq!(client.get("/").unwrap().0, 200);
        }
        let mut held = Client::new(web).unwrap();
        held.send("/hold").unwrap();
        let connect = |port| from(Ipv4Addr::LOCALHOST, port);
        let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(tcp)).collect();
        let mut others: Vec<TcpStream> = (0..4).map(|_| connect(stays)).collect();
        assert!(streams.iter_mut().chain(&mut others).all(echoes));
        wait("the held request", || (proxy.stat("cluster.one.upstream_rq_active") == 1).then_some(()));
        proxy.write(&all[2..], upstream.port);
        // Idle connections end at once, and long before the held request that never does.
        for client in &mut idle {
            assert!(client.is_closed());
        }
        for stream in &mut streams {
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        }
        assert!(held.respond().is_err());
        wait("the end of all", || (proxy.stat_or_zero("http.web.downstream_cx_active") == 0).then_some(()));
        assert!(others.iter_mut().all(echoes));
    }
}

#[test]
fn a_chain_that_did_not_change_keeps_its_connections() {
    let upstream = Upstream::start();
    let port = free_port();
    let listeners = |body: &str| {
        let direct = format!("direct_response: {{ status: 200, body: {{ inline_string: {body} }} }}");
        let here =
            "filter_chain_match: { source_prefix_ranges: [{ address_prefix: 127.0.0.1, prefix_len: 32 }] }";
        let chains = format!(
            "filter_chains: [{{ {here}, {ECHO} }}], default_filter_chain: {{ {} }}",
            http("web", &direct)
        );
        vec![listener("main", "127.0.0.1", port, &chains)]
    };
    let proxy = Process::start(1, &listeners("old"), upstream.port);
    let mut kept = from(Ipv4Addr::LOCALHOST, port);
    assert!(echoes(&mut kept));
    let get = |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).to_string()
    };
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let mut changed = from(other, port);
    assert!(get(&mut changed).ends_with("old"));
    proxy.write(&listeners("new"), upstream.port);
    wait("the new chain", || get(&mut from(other, port)).ends_with("new").then_some(()));
    // The connection of the old chain lies idle until the drain time is over; the other one is not touched.
    assert!(matches!(changed.read(&mut [0]), Ok(0) | Err(_)));
    assert!(echoes(&mut kept));
}

#[test]
fn other_runtime_values_and_files_cut_no_connection_that_is_still_configured() {
    let upstream = Upstream::start();
    let (web, file, gone) = (free_port(), free_port(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, "old").unwrap();
    let direct = format!("direct_response: {{ status: 200, body: {{ filename: {} }} }}", body.display());
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let there =
        "filter_chain_match: { source_prefix_ranges: [{ address_prefix: 127.0.0.2, prefix_len: 32 }] }";
    let chains = format!(
        "filter_chains: [{{ {there}, {ECHO} }}], default_filter_chain: {{ {} }}",
        http("file", &direct)
    );
    let all = [
        listener("web", "127.0.0.1", web, &format!("filter_chains: [{{ {} }}]", http("web", ROUTE))),
        listener("file", "127.0.0.1", file, &chains),
        listener("gone", "127.0.0.1", gone, &format!("filter_chains: [{{ {ECHO} }}]")),
    ];
    let proxy = Process::start(1, &all, upstream.port);
    let (mut tunnel, mut removed) = (from(other, file), from(other, gone));
    assert!(echoes(&mut tunnel) && echoes(&mut removed));
    let mut held = Client::new(web).unwrap();
    held.send("/hold").unwrap();
    wait("the held request", || (proxy.stat("cluster.one.upstream_rq_active") == 1).then_some(()));
    let mut open = Client::new(file).unwrap();
    assert_eq!(open.get("/").unwrap().2, "old");
    assert_eq!(Client::new(proxy.admin).unwrap().post("/runtime_modify?any=5").unwrap().0, 200);
    std::fs::write(&body, "new").unwrap();
    proxy.hang_up();
    wait("the new file", || (Client::new(file).ok()?.get("/").ok()?.2 == "new").then_some(()));
    // An open HTTP connection finds the new values after one more response.
    assert!(open.get("/").unwrap().1.contains("connection: close"));
    assert!(open.is_closed());
    // What is retired after these changes ends after whatever they retired.
    proxy.write(&all[..2], upstream.port);
    assert!(matches!(removed.read(&mut [0]), Ok(0) | Err(_)));
    assert!(echoes(&mut tunnel));
    upstream.release();
    assert_eq!(held.respond().unwrap().0, 200);
    // Removing the listener reaches the connections of its earlier generations.
    proxy.write(&all[..1], upstream.port);
    assert!(matches!(tunnel.read(&mut [0]), Ok(0) | Err(_)));
}
