//! Files made to hurt, through the programs that users call: one clear answer each, within 256 MiB of memory.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// In KiB: all memory that a process may ask for, its code and its stacks included, and hence more than is ever resident.
const MEMORY: &str = "262144";

fn petmesh(dir: &Path, command: &str, file: &str) -> Output {
    let mut shell = Command::new("sh");
    // macOS has no such limit.
    let limit = if cfg!(target_os = "linux") { format!("ulimit -v {MEMORY} && ") } else { String::new() };
    shell.args([
        "-c",
        &format!("{limit}exec \"$0\" config {command} \"$1\""),
        env!("CARGO_BIN_EXE_petmesh"),
        file,
    ]);
    shell.current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// Refused by both commands, with at least one error that says where, and not with a book.
fn refused(dir: &Path, name: &str, code: &str) {
    refused_by(&["validate", "upgrade"], dir, name, code);
}

fn refused_by(commands: &[&str], dir: &Path, name: &str, code: &str) {
    for command in commands {
        let output = petmesh(dir, command, name);
        let said = String::from_utf8_lossy(&output.stderr);
        let shown: String = said.chars().take(600).collect();
        assert_eq!(output.status.code(), Some(1), "{command} {name}: {:?}\n{shown}", output.status);
        assert!(said.contains(&format!("error[{code}]")), "{command} {name}: {shown}");
        assert!(said.contains(name), "{command} {name} does not name the file: {shown}");
        assert!(said.len() < 200_000, "{command} {name}: {} bytes", said.len());
        assert_eq!(output.stdout.len(), 0, "{command} {name} prints a file");
    }
}

fn bomb() -> String {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        bomb += &format!("a{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(10));
    }
    bomb
}

#[test]
fn hostile_files_get_one_clear_answer_within_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = |name: &str| format!("static_resources: {{clusters: [{{name: {name}}}]}}\n");
    let long = "x".repeat(1 << 20);
    for (name, content, code) in [
        ("empty.yaml", String::new(), "empty"),
        ("comment.yaml", "# nothing\n".to_owned(), "empty"),
        ("binary.yaml", "\u{7f}ELF\u{2}\u{1}\u{0}\u{0}".to_owned(), "syntax"),
        ("words.yaml", "just words\n".to_owned(), "wrong-type"),
        ("bomb.yaml", bomb(), "limit"),
        ("lists.yaml", "[".repeat(10_000), "syntax"),
        ("dashes.yaml", "- ".repeat(10_000), "syntax"),
        ("maps.json", "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000), "syntax"),
        ("number.yaml", cluster("-1"), "wrong-type"),
        ("nothing.yaml", cluster("\"\""), "bad-value"),
        ("wide.yaml", cluster("a, connect_timeout: 18446744073709551616"), "bad-value"),
        ("nan.yaml", cluster("a, per_connection_buffer_limit_bytes: NaN"), "bad-value"),
        ("megabyte.yaml", cluster(&format!("a, lb_policy: {long}")), "bad-value"),
        ("megabyte-key.yaml", cluster(&format!("a, {long}: 1")), "unknown-field"),
        ("many-keys.yaml", (0..200_000).map(|at| format!("k{at}: 1\n")).collect(), "unknown-field"),
        (
            "many-errors.json",
            format!("{{\"a\": [{}]}}", vec!["{\"b\": 1}"; 100_000].join(",")),
            "unknown-field",
        ),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
        refused(dir.path(), name, code);
    }
    fs::write(dir.path().join("latin1.yaml"), b"static_resources: {clusters: [{name: \"se\xf1al\"}]}\n")
        .unwrap();
    refused(dir.path(), "latin1.yaml", "unreadable");
    fs::create_dir(dir.path().join("folder")).unwrap();
    refused(dir.path(), "folder", "unreadable");
    refused(dir.path(), "absent.yaml", "unreadable");
}

/// Names of a megabyte, and many of them, in a file that only the graph's builder finds wrong.
#[test]
fn references_to_nothing_are_told_in_few_words() {
    let dir = tempfile::tempdir().unwrap();
    let route =
        |at: usize, cluster: &str| format!("{{match: {{prefix: /{at}}}, route: {{cluster: {cluster}}}}}");
    let file = |routes: &[String]| {
        let clusters: Vec<_> = (0..1000).map(|at| format!("{{name: cluster-{at}}}")).collect();
        let listener = "address: {socket_address: {address: 127.0.0.1, port_value: 1}}, filter_chains: [{filters: [{name: h, \
            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
            stat_prefix: s, route_config: {virtual_hosts: [{name: v, domains: [\"*\"], routes: [";
        let (routes, clusters) = (routes.join(", "), clusters.join(", "));
        format!(
            "static_resources: {{listeners: [{{{listener}{routes}]}}]}}}}}}]}}]}}], clusters: [{clusters}]}}\n"
        )
    };
    let long = "x".repeat(1 << 20);
    let many: Vec<_> = (0..10_000).map(|at| route(at, &format!("cluster{at}x"))).collect();
    for (name, routes) in [("long-name.yaml", &[route(0, &long)][..]), ("many-names.yaml", &many)] {
        fs::write(dir.path().join(name), file(routes)).unwrap();
        let output = petmesh(dir.path(), "validate", name);
        let said = String::from_utf8_lossy(&output.stderr);
        let shown: String = said.chars().take(600).collect();
        assert_eq!(output.status.code(), Some(1), "{name}: {shown}");
        assert!(said.contains("error[reference]: there is no cluster"), "{name}: {shown}");
        assert!(said.len() < 1 << 20, "{name}: {} bytes", said.len());
    }
}

/// Root may read any file, so that as root another user runs the program.
#[test]
fn a_file_without_permission_is_named() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret.yaml");
    fs::write(&file, "static_resources: {}\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&file).is_err() {
        return refused(dir.path(), "secret.yaml", "unreadable");
    }
    // The other user must be able to come to the program, wherever it was built.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("petmesh");
    fs::copy(env!("CARGO_BIN_EXE_petmesh"), &program).unwrap();
    for command in ["validate", "upgrade"] {
        let mut child = Command::new(&program);
        child.args(["config", command, "secret.yaml"]).current_dir(dir.path()).uid(65_534).gid(65_534);
        let output = match child.output() {
            Ok(output) => output,
            Err(error) => {
                return eprintln!(
                    "not shown: this user may read every file, and become no other one: {error}"
                );
            }
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error[unreadable]") && said.contains("secret.yaml"), "{said}");
    }
}
