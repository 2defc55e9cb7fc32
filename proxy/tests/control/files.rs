//! Configuration files and EDS files that change.

use std::os::unix::fs::symlink;

use super::*;
use proxy::stats::ListenerManagerStats;

fn one(port: u16, more: &str) -> String {
    bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", port), ("127.0.0.1", 9)], more))
}

/// Puts a text in place of a file in one step.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_swapped_in_and_what_did_not_change_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    replace(&path, &one(1, ""));
    let mut running = start(&one(1, ""), Some(&path));
    let first = running.hosts("one", &["127.0.0.1:1", "127.0.0.1:9"]).await;
    running.bound.send_replace(1);

    replace(&path, &one(2, ""));
    let second = running.hosts("one", &["127.0.0.1:2", "127.0.0.1:9"]).await;
    assert!(Arc::ptr_eq(&first.listeners[0], &second.listeners[0]));
    let hosts = |snapshot: &Snapshot| snapshot.clusters.get("one").unwrap().endpoints.hosts.clone();
    assert_eq!(hosts(&first)[1].id, hosts(&second)[1].id);
    assert!(hosts(&first)[0].stats.is_removed());

    replace(&path, &one(2, "connect_timeout: 1s,"));
    let third = running
        .snapshot(|snapshot| snapshot.clusters.get("one").unwrap().policy.connect_timeout.as_secs() == 1)
        .await;
    assert_eq!(hosts(&third)[0].id, hosts(&second)[0].id);
    assert!(Arc::ptr_eq(
        &third.clusters.get("one").unwrap().breakers,
        &first.clusters.get("one").unwrap().breakers
    ));
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_changes_nothing_but_is_counted_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    replace(&path, &one(1, ""));
    let mut running = start(&one(1, ""), Some(&path));
    let first = running.snapshot(|_| true).await;
    running.bound.send_replace(1);

    replace(&path, &one(2, "connect_timeout: soon,"));
    let mut status = running.handles.accepted.clone();
    let rejected =
        status.wait_for(|status| status.rejected.is_some()).await.unwrap().rejected.clone().unwrap();
    assert!(rejected.diagnostics.iter().any(|found| found.line == Some(9)), "{rejected:?}");
    assert_eq!(running.handles.snapshots.borrow().version, first.version);
    let stats = running.registry.scope::<ListenerManagerStats>("listener_manager.");
    assert_eq!(stats.shard(1).lds_update_rejected.get(), 1);

    replace(&path, &one(3, ""));
    running.hosts("one", &["127.0.0.1:3", "127.0.0.1:9"]).await;
    status.wait_for(|status| status.rejected.is_none()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_be_opened_leaves_the_old_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    let text = one(1, "");
    replace(&path, &text);
    let mut running = start(&text, Some(&path));
    let first = running.snapshot(|_| true).await;
    running.bound.send_replace(1);

    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let moved = text.replacen("port_value: 10000", &format!("port_value: {port}"), 1);
    assert_ne!(moved, text);
    replace(&path, &moved);
    let mut status = running.handles.accepted.clone();
    let status = status.wait_for(|status| status.rejected.is_some()).await.unwrap().rejected.clone();
    assert!(status.unwrap().diagnostics[0].message.contains(&format!("cannot listen on 127.0.0.1:{port}")));
    assert_eq!(running.handles.snapshots.borrow().version, first.version);
    let stats = running.registry.scope::<ListenerManagerStats>("listener_manager.");
    assert_eq!(stats.shard(1).listener_create_failure.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_followed_through_its_symlinks() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, port) in [("..1", 1), ("..2", 2)] {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("envoy.yaml"), one(port, "")).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/envoy.yaml", at("envoy.yaml")).unwrap();
    let mut running = start(&one(1, ""), Some(&at("envoy.yaml")));
    running.hosts("one", &["127.0.0.1:1", "127.0.0.1:9"]).await;
    running.bound.send_replace(1);

    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    running.hosts("one", &["127.0.0.1:2", "127.0.0.1:9"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_reads_the_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("envoy.yaml");
    replace(&path, &one(1, ""));
    let mut running = start(&one(1, ""), Some(&path));
    running.snapshot(|_| true).await;
    replace(&path, &one(2, ""));
    let asked = tokio::time::Instant::now();
    running.handles.events.send(Event::Reload).await.unwrap();
    running.hosts("one", &["127.0.0.1:2", "127.0.0.1:9"]).await;
    assert!(asked.elapsed().is_zero());
}

fn assignment(cluster: &str, port: u16) -> String {
    format!(
        "version_info: v{port}\nresources: [{{ \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: {cluster}, \
         endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}]\n"
    )
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_a_file_and_stay_when_it_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eds.yaml");
    replace(&path, &assignment("one", 1));
    let source = format!(
        "{{ name: one, type: EDS, eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: '{}' }} }} }} }}",
        path.display()
    );
    let mut running = start(&bootstrap(&source), None);
    let first = running.hosts("one", &["127.0.0.1:1"]).await;
    assert_eq!(first.clusters.get("one").unwrap().endpoints.version, "v1");
    let stats = running.stats("one");
    for (rejected, bad) in
        [(1, assignment("other", 2)), (2, "resources: [{ \"@type\": nonsense }]".to_owned())]
    {
        replace(&path, &bad);
        until("it is refused", || stats.shard(1).update_rejected.get() >= rejected).await;
        assert_eq!(running.handles.snapshots.borrow().version, first.version);
    }
    replace(&path, &assignment("one", 3));
    running.hosts("one", &["127.0.0.1:3"]).await;
    assert_eq!(stats.shard(1).membership_change.get(), 2);
    // Without a resource the endpoints stay.
    replace(&path, "version_info: v4\nresources: []\n");
    until("it is read", || stats.shard(1).update_empty.get() > 0).await;
    running.hosts("one", &["127.0.0.1:3"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_whose_file_has_no_endpoints_does_not_hold_the_start_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eds.yaml");
    for (text, counts) in [
        ("version_info: v1\nresources: []\n".to_owned(), [1, 1, 0]),
        (assignment("other", 1), [0, 0, 1]),
        ("resources: {".to_owned(), [0, 0, 1]),
    ] {
        replace(&path, &text);
        let source = format!(
            "{{ name: one, type: EDS, eds_cluster_config: {{ eds_config: {{ initial_fetch_timeout: 0s, \
             path_config_source: {{ path: '{}' }} }} }} }}",
            path.display()
        );
        let mut running = start(&bootstrap(&source), None);
        assert_eq!(running.handles.accepted.borrow().warming, ["one".into()].into());
        let snapshot = running.snapshot(|_| true).await;
        assert!(snapshot.clusters.get("one").unwrap().endpoints.hosts.is_empty());
        assert_eq!(snapshot.listeners.len(), 1);
        let stats = running.stats("one");
        let shard = stats.shard(1);
        let counted = [&shard.update_success, &shard.update_empty, &shard.update_rejected]
            .map(proxy::stats::Counter::get);
        assert_eq!((shard.update_attempt.get(), counted), (1, counts), "{text}");
        replace(&path, &assignment("one", 3));
        running.hosts("one", &["127.0.0.1:3"]).await;
    }
}

/// Waits until a condition holds. It is looked at again and again, because statistics wake no task.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let looks = async {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(50));
        while !holds() {
            looks.tick().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), looks).await;
    assert!(waited.is_ok(), "{what}: not within a minute");
}
