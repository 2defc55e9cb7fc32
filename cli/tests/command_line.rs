//! The command line without a mesh: words and exit codes. (With one: the e2e tests.)

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

use std::path::Path;
use std::process::Command;

const GOOD: &str =
    "static_resources:\n  clusters:\n  - name: pet\n    connect_timeout: 1s\n    type: STATIC\n";
const BAD: &str =
    "static_resources:\n  clusters:\n  - name: pet\n    connect_timeut: 1s\n    type: STATICK\n";

/// Exit code, standard output, standard error.
fn petmesh(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_petmesh")).args(args).current_dir(dir).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn without_a_mesh_there_is_nothing_to_stop_and_nothing_to_show() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(petmesh(dir.path(), &["down"]), (0, "no mesh is running\n".to_owned(), String::new()));
    for args in
        [&["ps"][..], &["scale", "pet=2"], &["kill", "pet-1"], &["restart", "pet"], &["logs", "pet-1"]]
    {
        let (code, _, said) = petmesh(dir.path(), args);
        assert_eq!(code, 1, "{args:?}");
        assert!(said.contains("no mesh is running") && said.contains("petmesh up"), "{args:?}: {said}");
    }
}

#[test]
fn dir_says_which_mesh_and_a_failed_up_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--dir", "shop/mesh", "ps"][..], &["ps", "--dir", "shop/mesh"]] {
        let (code, _, said) = petmesh(dir.path(), args);
        assert!(code == 1 && said.contains("no mesh is running in shop/mesh"), "{args:?}: {said}");
    }
    for how in [&["--foreground"][..], &[]] {
        let up = ["up", "--dir", "shop/mesh", "--bin-dir", "."];
        let (code, _, said) = petmesh(dir.path(), &[&up, how].concat());
        assert!(code == 1 && said.contains("missing ingress"), "{how:?}: {said}");
        assert!(!dir.path().join("shop/mesh").exists(), "{how:?}");
        assert!(!dir.path().join("mesh").exists(), "{how:?}");
    }
}

#[test]
fn up_touches_nothing_that_no_mesh_has_made_and_no_log_of_a_mesh_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kubeconfig"), "mine").unwrap();
    for args in [&["up", "--dir", ".", "--bin-dir", "."][..], &["down", "--dir", "."]] {
        let (code, out, said) = petmesh(dir.path(), args);
        assert!(said.contains("is not empty") || out.contains("no mesh is running"), "{code}: {out}{said}");
        assert_eq!(std::fs::read_to_string(dir.path().join("kubeconfig")).unwrap(), "mine");
    }
    let mesh = dir.path().join("mesh");
    std::fs::create_dir_all(mesh.join("pet-1")).unwrap();
    for file in ["petmesh.lock", "supervisor.log", "pet-1/app.log"] {
        std::fs::write(mesh.join(file), "why\n").unwrap();
    }
    let (code, _, said) = petmesh(dir.path(), &["up", "--replicas", "dog=2"]);
    assert!(code == 1 && said.contains("no service dog"), "{said}");
    for file in ["supervisor.log", "pet-1/app.log"] {
        assert!(std::fs::read_to_string(mesh.join(file)).unwrap().starts_with("why"), "{file}");
    }
}

#[test]
fn what_is_missing_for_a_mesh_is_named_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, said) = petmesh(dir.path(), &["up", "--bin-dir", "."]);
    assert_eq!(code, 1);
    assert!(said.contains("missing ingress, pet, petstore, proxy, sds in .: run `make build`"), "{said}");
    let (code, _, said) = petmesh(dir.path(), &["up", "--replicas", "dog=2"]);
    assert_eq!(code, 1);
    assert!(said.contains("there is no service dog; there are ingress, petstore, pet, sds"), "{said}");
    for name in ["ingress", "pet", "petstore", "proxy", "sds"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let args = ["up", "--bin-dir", ".", "--ingress-address", "127.0.9.1", "--pod-addresses", "127.0.9.2"];
    let (code, _, said) = petmesh(dir.path(), &args);
    assert_eq!(code, 1);
    assert!(said.contains("no configuration deploy/config/ingress.yaml"), "{said}");
}

#[test]
fn files_are_checked_together_and_every_error_is_placed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good.yaml"), GOOD).unwrap();
    std::fs::write(dir.path().join("bad.yaml"), BAD).unwrap();
    let (code, said, _) = petmesh(dir.path(), &["config", "validate", "good.yaml"]);
    assert_eq!((code, said.as_str()), (0, "configuration 'good.yaml' OK\n"));
    let (code, said, errors) = petmesh(dir.path(), &["config", "validate", "good.yaml", "bad.yaml"]);
    assert_eq!((code, said.as_str()), (1, "configuration 'good.yaml' OK\n"));
    for expected in ["bad.yaml:4:5", "connect_timeut", "bad.yaml:5:11", "STATICK"] {
        assert!(errors.contains(expected), "{expected} is not in\n{errors}");
    }
    let (code, json, _) =
        petmesh(dir.path(), &["config", "validate", "good.yaml", "bad.yaml", "--format", "json"]);
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = found.as_array().unwrap().iter().find(|one| one["severity"] == "error").unwrap();
    assert_eq!((code, first["file"].as_str(), first["line"].as_u64()), (1, Some("bad.yaml"), Some(4)));
    let (code, _, said) = petmesh(dir.path(), &["config", "validate", "none.yaml"]);
    assert_eq!(code, 1);
    assert!(said.contains("cannot read the configuration none.yaml"), "{said}");
}

#[test]
fn what_is_no_text_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("latin1.yaml", b"node: {id: \xe9}\n");
    write("binary.yaml", b"\x7fELF\x02\x01\x01\x00\x00");
    write("empty.yaml", b"");
    std::fs::create_dir(dir.path().join("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", dir.path().join("loop.yaml")).unwrap();
    let large = std::fs::File::create(dir.path().join("large.yaml")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    for (file, reason) in [
        ("latin1.yaml", "no text in UTF-8 (byte 11)"),
        ("binary.yaml", "not a text"),
        ("empty.yaml", "the file is empty"),
        ("folder.yaml", "it is a directory"),
        ("loop.yaml", "cannot read the configuration loop.yaml"),
        ("large.yaml", "more than 16777216 bytes"),
        ("/dev/zero", "it is a pipe, a device or a socket"),
    ] {
        let (code, _, said) = petmesh(dir.path(), &["config", "validate", file]);
        assert!(code == 1 && said.contains(reason), "{file}: {code} {said}");
        assert_eq!(said.matches("error[").count(), 1, "{said}");
    }
    write("secret.yaml", GOOD.as_bytes());
    let path = dir.path().join("secret.yaml");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        eprintln!("not tested without permission: this user may read everything");
        return;
    }
    let (code, _, said) = petmesh(dir.path(), &["config", "validate", "secret.yaml"]);
    assert!(code == 1 && said.contains("error[unreadable]") && said.contains("ermission denied"), "{said}");
}

#[test]
fn every_finding_of_a_file_is_said_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let bad = "admin: {address: {socket_address: {address: localhost, port_value: 1}}}\nstatic_resources: {clusters: [{nam: a}, \
               {name: b}, {name: b}]}\n";
    std::fs::write(dir.path().join("bad.yaml"), bad).unwrap();
    let (_, _, said) = petmesh(dir.path(), &["config", "validate", "bad.yaml"]);
    for expected in ["error[bad-value]", "error[unknown-field]", "error[structure]"] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
}

#[test]
fn addresses_are_judged_as_in_a_pod_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = "static_resources: {listeners: [{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 1024}}, filter_chains: \
                [{filters: [{name: t, typed_config: {\"@type\": \
                type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}]}]}]}\n";
    std::fs::write(dir.path().join("envoy.yaml"), file).unwrap();
    let (code, _, said) = petmesh(dir.path(), &["config", "validate", "--pod", "envoy.yaml"]);
    assert!(code == 0 && said.contains("warning[loopback-listener]"), "{code} {said}");
}

#[test]
fn codes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (code, all, _) = petmesh(dir.path(), &["config", "explain"]);
    assert_eq!((code, all.lines().count()), (0, xds::Code::ALL.len()));
    let (code, said, _) = petmesh(dir.path(), &["config", "explain", "no-router"]);
    assert!(code == 0 && said.starts_with("warning[no-router]: ") && said.contains("hangs"), "{said}");
    let (code, _, said) = petmesh(dir.path(), &["config", "explain", "no-roter"]);
    assert!(code == 1 && said.contains("did you mean `no-router`?"), "{said}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in
        [&["fly"][..], &["scale", "pet"], &["up", "--replicas", "pet=x"], &["config", "validate"], &[]]
    {
        assert_eq!(petmesh(dir.path(), args).0, 2, "{args:?}");
    }
}
