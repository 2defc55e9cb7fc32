//! Look-ups against a name server of the test's own.
//!
//! Test-only.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// The response to a name and a record type: whether there is an address, else the code.
type Zone = fn(&str, u16) -> Result<bool, u8>;
/// The names asked for, each with its record type.
type Asked = Arc<Mutex<Vec<(String, u16)>>>;

/// RFC 1035, section 4.1: the header, the question as it came, then a record.
fn response(query: &[u8], zone: Zone, asked: &Asked) -> Vec<u8> {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        name.push_str(&String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        name.push('.');
        at = end;
    }
    let record = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    asked.lock().unwrap().push((name.clone(), record));
    let (code, there) = match zone(&name, record) {
        Ok(there) => (0, there),
        Err(code) => (code, false),
    };
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(there), 0, 0, 0, 0]);
    out.extend(&query[12..at + 5]);
    if there {
        let length: u8 = if record == A { 4 } else { 16 };
        out.extend([0xc0, 12, 0, record as u8, 0, 1, 0, 0, 0, 60, 0, length]);
        out.extend((1..=length).rev().map(|byte| u8::from(byte == 1)));
    }
    out
}

/// A server over TCP, and over UDP where the test says so.
async fn server(zone: Zone, udp: bool) -> (SocketAddr, Asked) {
    let (listener, socket) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, socket);
        }
    };
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let shared = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await.unwrap();
                let response = response(&query, zone, &shared);
                stream.write_u16(response.len() as u16).await.unwrap();
                stream.write_all(&response).await.unwrap();
            }
        }
    });
    let shared = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        if !udp {
            return;
        }
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&response(&buffer[..length], zone, &shared), peer).await.unwrap();
        }
    });
    (address, asked)
}

fn once() -> Settings {
    Settings { attempts: Some(1), ..Settings::default() }
}

/// Servers of the system with these search domains.
fn servers(settings: &Settings, address: SocketAddr, search: &[&str]) -> Servers {
    let search = search.iter().map(|domain| (*domain).to_owned()).collect();
    Servers::new(settings, SystemDns { servers: vec![address], search, ndots: 2 }).unwrap()
}

#[tokio::test]
async fn a_family_that_fails_is_not_one_without_addresses() {
    const BOTH: [Family; 3] = [Family::Auto, Family::V4Preferred, Family::All];
    let failing: [(Zone, bool); 4] = [
        (|_, record| if record == A { Err(SERVER_FAILURE) } else { Ok(false) }, false),
        (|_, record| if record == AAAA { Err(SERVER_FAILURE) } else { Ok(false) }, false),
        (|_, record| if record == A { Err(SERVER_FAILURE) } else { Ok(true) }, true),
        (|_, record| if record == AAAA { Err(SERVER_FAILURE) } else { Ok(true) }, true),
    ];
    for (at, (zone, found)) in failing.into_iter().enumerate() {
        let (address, _) = server(zone, true).await;
        let servers = servers(&once(), address, &[]);
        for family in BOTH {
            let addresses = servers.look_up("svc.test", family).await.map(|found| found.ips.len());
            assert_eq!(addresses.as_ref().ok(), found.then_some(&1), "{at} {family:?}: {addresses:?}");
        }
    }
    let (address, _) = server(|_, _| Ok(false), true).await;
    for family in BOTH {
        let found = servers(&once(), address, &[]).look_up("svc.test", family).await;
        assert_eq!(found, Ok(Resolved::default()), "{family:?}");
    }
}

#[tokio::test]
async fn names_are_looked_up_below_the_search_domains_unless_the_file_says_no() {
    let zone: Zone = |name, _| match name {
        "pet.two.test." | "pet.a.b." | "pet.broken.test." => Ok(true),
        "pet.fails.test." => Err(SERVER_FAILURE),
        _ => Err(NO_SUCH_NAME),
    };
    let (address, asked) = server(zone, true).await;
    let check =
        async |settings: &Settings, search: &[&str], host: &str, names: &[&str], found: Option<usize>| {
            let resolved = servers(settings, address, search).look_up(host, Family::V4Only).await;
            assert_eq!(resolved.map(|found| found.ips.len()).ok(), found, "{host}");
            let mut asked: Vec<_> = asked.lock().unwrap().drain(..).map(|(name, _)| name).collect();
            // A server that fails may be asked over TCP as well.
            asked.dedup();
            assert_eq!(asked, names, "{host}");
        };
    let domains = ["one.test", "two.test", "three.test"];
    check(&once(), &domains, "pet", &["pet.one.test.", "pet.two.test."], Some(1)).await;
    check(&once(), &domains, "pet.", &["pet."], Some(0)).await;
    check(&once(), &domains, "pet.a.b", &["pet.a.b."], Some(1)).await;
    let all = ["x.y.z.", "x.y.z.one.test.", "x.y.z.two.test.", "x.y.z.three.test."];
    check(&once(), &domains, "x.y.z", &all, Some(0)).await;
    // What follows a failure would hide it.
    check(&once(), &["fails.test", "one.test"], "pet", &["pet.fails.test."], None).await;
    let no_search = Settings { no_search: true, ..once() };
    check(&no_search, &domains, "pet", &["pet."], Some(0)).await;
    // Servers that the file names have the search domains of the system, as in Envoy.
    let named = Settings { servers: vec![address], ..once() };
    check(&named, &["two.test"], "pet", &["pet.two.test."], Some(1)).await;
}

#[tokio::test]
async fn settings_without_servers_count_for_those_of_the_system() {
    let tcp_only = Settings { tcp_only: true, ..Settings::default() };
    let (address, asked) = server(|_, _| Ok(true), false).await;
    let found = servers(&tcp_only, address, &[]).look_up("svc.test", Family::V4Only).await;
    assert_eq!(found.unwrap().ips, [IpAddr::from([0, 0, 0, 1])]);
    assert_eq!(*asked.lock().unwrap(), [("svc.test.".to_owned(), A)]);
    let second = Some(Duration::from_secs(1));
    for settings in [
        tcp_only,
        once(),
        Settings { no_search: true, ..Settings::default() },
        Settings { timeout: second, ..Settings::default() },
    ] {
        assert!(matches!(Resolver::new(&settings), Ok(Resolver::Servers(_))), "{settings:?}");
    }
    assert!(matches!(Resolver::new(&Settings::default()), Ok(Resolver::System)));
}

#[tokio::test]
async fn localhost_is_no_name_below_a_search_domain() {
    let (address, asked) = server(|_, _| Ok(false), true).await;
    let servers = servers(&once(), address, &["one.test"]);
    let found = servers.look_up("localhost", Family::V4Only).await.unwrap();
    assert_eq!(found.ips, [IpAddr::from([127, 0, 0, 1])]);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn the_file_of_the_system_is_read_as_its_manual_says() {
    let parsed = |text: &str| {
        let SystemDns { servers, search, ndots } = SystemDns::parse(text);
        (servers.iter().map(ToString::to_string).collect::<Vec<_>>(), search.join(" "), ndots)
    };
    let owned = |servers: &[&str]| servers.iter().map(|server| (*server).to_owned()).collect::<Vec<_>>();
    let text = "# comment\n; comment\ndomain old.test\nnameserver 10.0.0.1\nnameserver  ::1\nnameserver x\n\
                search a.test. b.test\noptions rotate ndots:5 timeout:1\nnameserver 10.0.0.2\nnameserver 10.0.0.3";
    let servers = owned(&["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"]);
    assert_eq!(parsed(text), (servers, "a.test b.test".to_owned(), 5));
    assert_eq!(parsed(""), (owned(&["127.0.0.1:53"]), String::new(), 1));
    assert_eq!(parsed("options ndots:99 ndots:x").2, 15);
}
