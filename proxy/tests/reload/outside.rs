//! What was refused for a reason outside of the configuration: taken ports, missing and changed files.

use std::net::TcpListener;

use super::fixture::{Client, ECHO, Process, Upstream, free_port, http, listener, wait};

fn echo(name: &str, address: &str, port: u16) -> String {
    listener(name, address, port, &format!("filter_chains: [{{ {ECHO} }}]"))
}

/// A listener that responds with the content of a file.
fn from_file(name: &str, port: u16, path: &std::path::Path) -> String {
    let action = format!("direct_response: {{ status: 200, body: {{ filename: {} }} }}", path.display());
    listener(name, "127.0.0.1", port, &format!("filter_chains: [{{ {} }}]", http(name, &action)))
}

fn body(port: u16) -> Option<String> {
    Some(Client::new(port).ok()?.get("/").ok()?.2)
}

#[test]
fn a_listener_that_cannot_be_bound_is_not_active_and_is_tried_again() {
    let upstream = Upstream::start();
    let (port, other) = (free_port(), free_port());
    let files = |address: &str| [echo("one", address, port), echo("two", "127.0.0.1", other)];
    let proxy = Process::start(30, &files("127.0.0.1"), upstream.port);
    let active = "listener_manager.total_listeners_active";
    assert_eq!(proxy.stat(active), 2);
    let taken = TcpListener::bind(("127.0.0.2", port)).unwrap();
    proxy.write(&files("127.0.0.2"), upstream.port);
    wait("the failure", || (proxy.stat("listener_manager.listener_create_failure") == 1).then_some(()));
    wait("one active listener", || (proxy.stat(active) == 1).then_some(()));
    let shown = || proxy.page("/listeners").contains("cannot listen: ").then_some(());
    wait("the error on the page", shown);
    assert!(proxy.page("/listeners?format=json").contains("cannot listen: "));
    let dump = proxy.page("/config_dump");
    assert!(dump.contains("error_state") && dump.contains("cannot listen: "), "{dump}");
    assert!(proxy.log().contains("cannot listen"));
    drop(taken);
    wait("the listener", || (proxy.stat(active) == 2).then_some(()));
    assert!(std::net::TcpStream::connect(("127.0.0.2", port)).is_ok());
    assert!(!proxy.page("/listeners").contains("cannot listen"));
    assert!(!proxy.page("/config_dump").contains("error_state"));
    assert_eq!(proxy.stat("listener_manager.listener_create_failure"), 1);
}

#[test]
fn a_configuration_that_was_refused_for_a_taken_port_is_tried_again() {
    for by_signal in [false, true] {
        let upstream = Upstream::start();
        let port = free_port();
        let proxy = Process::start(30, &[echo("one", "127.0.0.1", port)], upstream.port);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = taken.local_addr().unwrap().port();
        proxy.write(&[echo("one", "127.0.0.1", port), echo("two", "127.0.0.1", second)], upstream.port);
        let rejected = || proxy.stat_or_zero("listener_manager.lds.update_rejected");
        wait("the refusal", || (rejected() == 1).then_some(()));
        if by_signal {
            // The same text, and the port is taken still.
            proxy.hang_up();
            wait("another refusal", || (rejected() == 2).then_some(()));
        }
        drop(taken);
        wait("the listener", || std::net::TcpStream::connect(("127.0.0.1", second)).ok());
        assert!(!proxy.page("/config_dump").contains("error_state"));
    }
}

#[test]
fn a_file_behind_a_body_is_read_again_when_it_changes_or_comes() {
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let (path, late) = (folder.path().join("body"), folder.path().join("late"));
    std::fs::write(&path, "first").unwrap();
    let (web, tcp, second) = (free_port(), free_port(), free_port());
    let mut files = vec![from_file("web", web, &path), echo("tcp", "127.0.0.1", tcp)];
    let proxy = Process::start(30, &files, upstream.port);
    assert_eq!(body(web).unwrap(), "first");
    let change = |text: &str| {
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), &path).unwrap();
    };
    change("second");
    wait("the changed file", || (body(web).as_deref() == Some("second")).then_some(()));
    // A file that is missing refuses the configuration until it comes.
    files.push(from_file("late", second, &late));
    proxy.write(&files, upstream.port);
    wait("the refusal", || (proxy.stat_or_zero("listener_manager.lds.update_rejected") >= 1).then_some(()));
    std::fs::write(&late, "late").unwrap();
    wait("the late file", || (body(second).as_deref() == Some("late")).then_some(()));
    change("third");
    proxy.hang_up();
    wait("the file once more", || (body(web).as_deref() == Some("third")).then_some(()));
    assert_eq!(proxy.stat("listener_manager.listener_modified"), 2);
}
