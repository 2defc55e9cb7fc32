//! A client that leaves is noticed wherever its request waits, over sockets: each wait, by each
//! protocol, with each state of the upload, in each way to leave.
//!
//! No timeout is configured, so that a request whose client is not missed stays active for ever.

use crate::client::{Client, Http1, Http2, Leave, Upload};
use crate::proxy::{Proxy, wait};

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// The delay of a filter.
    Delay,
    /// A filter wants the whole request.
    Hold,
    /// The upstream's connection is not made.
    Connect,
    /// The pending queue, behind another request.
    Queue,
    BackOff,
    /// The head of the response.
    Head,
    /// The body of the response.
    Body,
    /// An upstream of HTTP/2 takes no more of the upload.
    Blocked,
}

const POINTS: [Point; 8] = [
    Point::Delay,
    Point::Hold,
    Point::Connect,
    Point::Queue,
    Point::BackOff,
    Point::Head,
    Point::Body,
    Point::Blocked,
];
const UPLOADS: [Upload; 4] = [Upload::None, Upload::Whole, Upload::Begun, Upload::Unread];

impl Point {
    fn path(self) -> &'static str {
        match self {
            Self::Delay => "/delay",
            Self::Hold => "/hold",
            Self::Connect => "/connect",
            Self::Queue => "/queue",
            Self::BackOff => "/back-off",
            Self::Head => "/head",
            Self::Body => "/body",
            Self::Blocked => "/blocked",
        }
    }

    /// Whether a request with that upload waits there.
    fn is_reached_with(self, upload: Upload) -> bool {
        match self {
            Self::Hold => matches!(upload, Upload::Begun | Upload::Unread),
            Self::Blocked => upload == Upload::Unread,
            _ => true,
        }
    }

    /// What the admin interface counts once a request waits there.
    fn is_reached(self, proxy: &Proxy) -> bool {
        match self {
            Self::Delay => proxy.stat("http.one.fault.active_faults") == 1,
            Self::Hold => proxy.active() == 1,
            Self::Connect => proxy.stat("cluster.connect.upstream_rq_pending_active") == 1,
            // The other request is the first one.
            Self::Queue => proxy.stat("cluster.queue.upstream_rq_pending_active") == 1,
            Self::BackOff => proxy.stat("cluster.back-off.upstream_rq_pending_failure_eject") > 0,
            Self::Head => proxy.stat("cluster.head.upstream_rq_active") == 1,
            Self::Body => proxy.stat_or_zero("cluster.body.upstream_rq_2xx") > 0,
            Self::Blocked => proxy.stat("cluster.blocked.upstream_rq_active") == 1,
        }
    }
}

#[test]
fn a_client_that_leaves_is_noticed_wherever_its_request_waits() {
    let mut cases = Vec::new();
    for point in POINTS {
        for upload in UPLOADS.into_iter().filter(|upload| point.is_reached_with(*upload)) {
            for leave in [Leave::Gently, Leave::Rudely] {
                cases.push((point, upload, leave, false));
                cases.push((point, upload, leave, true));
            }
        }
    }
    let mut proxy = Proxy::start();
    let mut expected = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        let (point, upload, leave, http2) = case;
        let path = format!("{}?{number}", point.path());
        let other = (point == Point::Queue).then(|| Http1::start(&proxy, "/queue?other", Upload::None));
        if other.is_some() {
            wait("the other request", || proxy.stat("cluster.queue.upstream_rq_active") == 1);
        }
        let client = if http2 {
            Client::Http2(Http2::start(&proxy, &path, upload))
        } else {
            Client::Http1(Http1::start(&proxy, &path, upload))
        };
        wait(&format!("{case:?} to begin"), || point.is_reached(&proxy));
        client.leave(leave);
        let others = u64::from(other.is_some());
        wait(&format!("{case:?} to end"), || proxy.active() == others);
        wait(&format!("{case:?} to give back what it held"), || {
            let cluster = |what: &str| proxy.stat(&format!("cluster.{}.{what}", &point.path()[1..]));
            cluster("upstream_rq_pending_active") == 0 && cluster("upstream_rq_active") == others
        });
        expected.push((path, if http2 && leave == Leave::Gently { "DR" } else { "DC" }));
        if let Some(other) = other {
            other.leave(Leave::Rudely);
            wait("the other request's end", || proxy.active() == 0);
        }
        proxy.reset_counters();
    }
    let mut log = String::new();
    wait("the access log", || {
        log = proxy.log();
        expected.iter().all(|(path, _)| log.contains(&format!("{path} ")))
    });
    for (path, flag) in expected {
        let lines: Vec<&str> = log.lines().filter(|line| line.starts_with(&format!("{path} "))).collect();
        assert_eq!(lines.len(), 1, "{path} is logged once: {lines:?}");
        assert!(lines[0].split([' ', ',']).any(|word| word == flag), "{}", lines[0]);
    }
    assert!(proxy.is_alive());
}

#[test]
fn a_tunnel_whose_upstream_takes_nothing_ends_with_its_client() {
    let proxy = Proxy::start();
    let mut client = Http1::start(&proxy, "/tunnel", Upload::Upgrade);
    client.fill();
    assert_eq!(proxy.active(), 1);
    client.leave(Leave::Rudely);
    wait("the end of the tunnel", || proxy.active() == 0);
}

#[test]
fn an_upload_that_fills_all_buffers_ends_with_its_client() {
    let proxy = Proxy::start();
    let mut client = Http1::start(&proxy, "/deaf", Upload::Begun);
    client.fill();
    assert_eq!(proxy.active(), 1);
    client.leave(Leave::Rudely);
    wait("the end of the request", || proxy.active() == 0);
}

#[test]
fn a_tcp_client_that_leaves_is_noticed_before_it_has_an_upstream_and_when_that_takes_nothing() {
    let proxy = Proxy::start();
    for (port, leave) in [
        (proxy.tcp_connect, Leave::Gently),
        (proxy.tcp_connect, Leave::Rudely),
        (proxy.tcp_back_off, Leave::Gently),
        (proxy.tcp_back_off, Leave::Rudely),
        (proxy.tcp_deaf, Leave::Rudely),
    ] {
        let mut client = Http1::connect(port);
        wait("the connection", || proxy.connections(port) == 1);
        if port == proxy.tcp_deaf {
            client.fill();
        }
        client.leave(leave);
        wait(&format!("the end of the connection to {port}, {leave:?}"), || proxy.connections(port) == 0);
    }
}
