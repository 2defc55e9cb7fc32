//! What was refused for a reason outside of the configuration: taken ports, missing and changed files.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::fixture::{Client, ECHO, Process, Upstream, free_port, http, listener, wait};

fn echo(name: &str, address: &str, port: u16) -> String {
    listener(name, address, port, &format!("filter_chains: [{{ {ECHO} }}]"))
}

/// A listener that responds with the content of a file.
fn from_file(name: &str, port: u16, path: &Path) -> String {
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
    // The error stays with the listener whatever its name is.
    proxy.write(&[echo("renamed", "127.0.0.2", port), echo("two", "127.0.0.1", other)], upstream.port);
    let shown = || {
        let page = proxy.page("/listeners");
        page.lines().any(|line| line.contains("renamed") && line.contains("cannot listen: ")).then_some(())
    };
    wait("the error of the renamed listener", shown);
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

fn rejected(proxy: &Process) -> u64 {
    proxy.stat_or_zero("listener_manager.lds.update_rejected")
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_server_is_live_only_when_its_listeners_are_open() {
    let upstream = Upstream::start();
    let port = free_port();
    let one_socket = |name: &str, address: &str, port: u16| {
        let chains = format!("enable_reuse_port: false, filter_chains: [{{ {ECHO} }}]");
        listener(name, address, port, &chains)
    };
    // Each address is free by itself, and one socket takes both.
    let both = [one_socket("all", "0.0.0.0", port), one_socket("one", "127.0.0.1", port)];
    let proxy = Process::launch(30, &both, upstream.port);
    let state = || Client::new(proxy.admin).ok()?.get("/ready").ok();
    let failing = || {
        Client::new(proxy.admin)
            .ok()?
            .get("/listeners")
            .ok()
            .filter(|page| page.2.contains("cannot listen: "))
    };
    wait("the error on the page", failing);
    let (status, _, text) = state().unwrap();
    assert_eq!((status, text.trim()), (503, "INITIALIZING"));
    proxy.write(&[one_socket("all", "0.0.0.0", port)], upstream.port);
    proxy.wait_ready();
}

#[test]
fn what_cannot_be_read_is_read_once_its_permissions_allow_it() {
    let upstream = Upstream::start();
    let (web, port, late) = (free_port(), free_port(), free_port());
    let outside = tempfile::tempdir().unwrap();
    allow(outside.path(), 0o755);
    let body_file = outside.path().join("body");
    std::fs::write(&body_file, "body").unwrap();
    allow(&body_file, 0o000);
    let mut files = vec![echo("one", "127.0.0.1", port)];
    let proxy = Process::start(30, &files, upstream.port);
    let configuration = proxy.folder.path().join("proxy.yaml");
    // A file that the configuration names.
    files.push(from_file("web", web, &body_file));
    proxy.write(&files, upstream.port);
    wait("the refusal", || (rejected(&proxy) >= 1).then_some(()));
    allow(&body_file, 0o444);
    wait("the body", || (body(web).as_deref() == Some("body")).then_some(()));
    // The configuration itself, new and then as it was.
    for more in [vec![echo("late", "127.0.0.1", late)], Vec::new()] {
        let before = rejected(&proxy);
        files.truncate(2);
        files.extend(more);
        proxy.write_with_mode(&files, upstream.port, 0o000);
        wait("the refusal", || (rejected(&proxy) > before).then_some(()));
        assert!(proxy.page("/config_dump").contains("cannot read the configuration"));
        allow(&configuration, 0o444);
        wait("its end", || (!proxy.page("/config_dump").contains("error_state")).then_some(()));
        let listens = std::net::TcpStream::connect(("127.0.0.1", late)).is_ok();
        assert_eq!(listens, files.len() == 3);
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_holds_nothing_up() {
    let upstream = Upstream::start();
    let (port, web) = (free_port(), free_port());
    let folder = tempfile::tempdir().unwrap();
    allow(folder.path(), 0o755);
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let good = [echo("one", "127.0.0.1", port)];
    let proxy = Process::start(30, &good, upstream.port);
    for path in [&pipe, Path::new("/dev/zero"), folder.path()] {
        let before = rejected(&proxy);
        proxy.write(&[echo("one", "127.0.0.1", port), from_file("web", web, path)], upstream.port);
        wait("the refusal", || (rejected(&proxy) > before).then_some(()));
        let dump = proxy.page("/config_dump");
        for text in [&*path.display().to_string(), "cannot read", "name", "direct_response.body.filename"] {
            assert!(dump.contains(text), "{text} is missing in {dump}");
        }
        proxy.write(&good, upstream.port);
        wait("the good file", || (!proxy.page("/config_dump").contains("error_state")).then_some(()));
    }
    // A log that nothing reads is refused as well.
    allow(&pipe, 0o666);
    let log = format!(
        "access_log: [{{ name: file, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {} }} }}], \
         stat_prefix: web",
        pipe.display()
    );
    let logging = http("web", "direct_response: { status: 200 }").replace("stat_prefix: web", &log);
    let logging = listener("web", "127.0.0.1", web, &format!("filter_chains: [{{ {logging} }}]"));
    let before = rejected(&proxy);
    proxy.write(&[echo("one", "127.0.0.1", port), logging], upstream.port);
    wait("the refusal", || (rejected(&proxy) > before).then_some(()));
    assert!(proxy.page("/config_dump").contains("does not respond"));
}

#[test]
fn what_a_socket_was_bound_with_cannot_change_under_its_address() {
    let upstream = Upstream::start();
    let (port, other, six) = (free_port(), free_port(), free_port());
    let four = |name: &str, port: u16, reuse: bool| {
        let chains = format!("enable_reuse_port: {reuse}, filter_chains: [{{ {ECHO} }}]");
        listener(name, "127.0.0.1", port, &chains)
    };
    let both = |compat: bool| {
        let text = listener("six", "\"::\"", six, &format!("filter_chains: [{{ {ECHO} }}]"));
        text.replace("port_value:", &format!("ipv4_compat: {compat}, port_value:"))
    };
    let proxy = Process::start(30, &[four("one", port, false), both(false)], upstream.port);
    let changes = [
        (four("one", port, true), both(false), "`enable_reuse_port` cannot be changed during an update"),
        (four("renamed", port, true), both(false), "`enable_reuse_port` cannot be changed during an update"),
        (four("one", port, false), both(true), "`ipv4_compat` cannot be changed during an update"),
    ];
    for (one, six, why) in changes {
        let before = rejected(&proxy);
        proxy.write(&[one, six], upstream.port);
        wait("the refusal", || (rejected(&proxy) > before).then_some(()));
        assert!(proxy.page("/config_dump").contains(why), "{}", proxy.page("/config_dump"));
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
    // Another address is another socket.
    proxy.write(&[four("one", other, true), both(false)], upstream.port);
    wait("the other port", || std::net::TcpStream::connect(("127.0.0.1", other)).ok());
}
