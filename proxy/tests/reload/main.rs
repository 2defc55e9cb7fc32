//! Reloads as a user sees them: what a change of the file leaves alone, what it ends, and what a bad file does.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

mod draining;
mod fixture;
mod outside;
#[path = "../shared/ports.rs"]
mod ports;

use fixture::{Client, Proxy, Swap, Upstream, wait};

const SWAPS: [Swap; 2] = [Swap::Rename, Swap::Symlink];

#[test]
fn connections_and_pools_of_what_did_not_change_stay() {
    for swap in SWAPS {
        let upstream = Upstream::start();
        let mut proxy = Proxy::start(swap, &upstream, "");
        let mut client = Client::new(proxy.one).unwrap();
        assert_eq!(client.get("/").unwrap().0, 200);
        for _ in 0..2 {
            proxy.reload(&upstream, "", true);
            let (status, head, _) = client.get("/").unwrap();
            assert_eq!((status, head.contains("connection: close")), (200, false));
            assert_eq!(proxy.stat("http.one.downstream_cx_total"), 1);
            assert_eq!(proxy.stat("cluster.one.upstream_cx_total"), 1);
        }
        assert_eq!(proxy.stat("cluster.one.upstream_rq_total"), 3);
    }
}

#[test]
fn a_held_request_counts_in_the_breaker_after_the_reload() {
    for swap in SWAPS {
        let upstream = Upstream::start();
        let breaker = "circuit_breakers: { thresholds: [{ max_requests: 1 }] },";
        let mut proxy = Proxy::start(swap, &upstream, breaker);
        let mut held = Client::new(proxy.one).unwrap();
        held.send("/hold").unwrap();
        wait("the held request", || (proxy.stat("cluster.one.upstream_rq_active") == 1).then_some(()));
        proxy.reload(&upstream, breaker, true);
        let mut second = Client::new(proxy.one).unwrap();
        let (status, head, _) = second.get("/").unwrap();
        assert_eq!((status, head.contains("x-envoy-overloaded: true")), (503, true));
        upstream.release();
        assert_eq!(held.respond().unwrap().0, 200);
        wait("its end", || (proxy.stat("cluster.one.upstream_rq_active") == 0).then_some(()));
        assert_eq!(second.get("/").unwrap().0, 200);
    }
}

#[test]
fn an_ejection_stays_until_detection_is_taken_out() {
    for swap in SWAPS {
        let upstream = Upstream::start();
        let detection = "common_lb_config: { healthy_panic_threshold: { value: 0 } }, outlier_detection: { consecutive_5xx: 1, \
                         enforcing_consecutive_5xx: 100, base_ejection_time: 600s, max_ejection_time: 600s, max_ejection_percent: 100 },";
        let mut proxy = Proxy::start(swap, &upstream, detection);
        let mut client = Client::new(proxy.one).unwrap();
        assert_eq!(client.get("/fail").unwrap().0, 500);
        // The very next request finds the host ejected: it does not wait for control.
        assert_eq!(client.get("/").unwrap().0, 503);
        let active = "cluster.one.outlier_detection.ejections_active";
        wait("the ejection", || (proxy.stat(active) == 1).then_some(()));
        proxy.reload(&upstream, detection, true);
        assert_eq!(proxy.stat(active), 1);
        let (status, _, body) = client.get("/").unwrap();
        assert_eq!((status, body.as_str()), (503, "no healthy upstream"));
        proxy.reload(&upstream, "", true);
        assert_eq!(client.get("/").unwrap().0, 200);
    }
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    for swap in SWAPS {
        let upstream = Upstream::start();
        let mut proxy = Proxy::start(swap, &upstream, "");
        let mut client = Client::new(proxy.one).unwrap();
        assert_eq!(client.get("/").unwrap().0, 200);
        proxy.write("static_resources:\n  clusters:\n  - name: one\n    conect_timeout: 1s\n");
        wait("the refusal", || {
            (proxy.stat_or_zero("listener_manager.lds.update_rejected") == 1).then_some(())
        });
        let shown = || Some(proxy.page("/config_dump")).filter(|dump| dump.contains("error_state"));
        let dump = wait("the refusal on the page", shown);
        for text in ["conect_timeout", "proxy.yaml:4:5", "^"] {
            assert!(dump.contains(text), "{text} is missing in {dump}");
        }
        wait("the log", || proxy.log().contains("proxy.yaml:4:5").then_some(()));
        proxy.serves(1);
        assert_eq!(client.get("/").unwrap().0, 200);
        assert_eq!(proxy.stat("cluster.one.upstream_cx_total"), 1);
        proxy.reload(&upstream, "", true);
        wait("a page without it", || (!proxy.page("/config_dump").contains("error_state")).then_some(()));
        assert_eq!(proxy.stat_or_zero("listener_manager.lds.update_rejected"), 1);
        assert_eq!(client.get("/").unwrap().0, 200);
    }
}

#[test]
fn a_removed_listener_stops_accepting_and_drains() {
    for swap in SWAPS {
        let upstream = Upstream::start();
        let mut proxy = Proxy::start(swap, &upstream, "");
        let mut client = Client::new(proxy.one).unwrap();
        client.send("/hold").unwrap();
        wait("the held request", || (proxy.stat("cluster.one.upstream_rq_active") == 1).then_some(()));
        proxy.reload(&upstream, "", false);
        wait("the end of the listener", || Client::new(proxy.one).is_err().then_some(()));
        upstream.release();
        let (status, head, _) = client.respond().unwrap();
        assert_eq!((status, head.contains("connection: close")), (200, true));
        assert!(client.is_closed());
        wait("the last connection", || {
            (proxy.stat_or_zero("http.one.downstream_cx_active") == 0).then_some(())
        });
    }
}
