//! What the folder of a mesh holds, and who may use it.
//!
//! Test-only.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_folder_belongs_to_one_supervisor_at_a_time() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path().join("mesh"));
    assert!(!dir.is_taken());
    let held = dir.take().unwrap();
    fs::write(dir.state(), r#"{"supervisor":{"pid":77}}"#).unwrap();
    assert!(dir.is_taken());
    let error = dir.take().unwrap_err().to_string();
    assert!(error.contains("process 77") && error.contains("petmesh down"), "{error}");
    drop(held);
    assert!(!dir.is_taken());
    assert!(dir.take().is_ok());
}

#[test]
fn clearing_removes_pods_and_leaves_what_the_user_put_there() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path());
    let _lock = dir.take().unwrap();
    for name in ["pet-1", "notes"] {
        fs::create_dir(dir.pod(name)).unwrap();
    }
    fs::write(dir.state(), "{}").unwrap();
    dir.clear().unwrap();
    assert!(!dir.pod("pet-1").exists() && !dir.state().exists());
    assert!(dir.pod("notes").exists());
}

#[test]
fn a_start_that_failed_leaves_the_logs_that_its_error_names_and_what_the_user_put_there() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path().join("deep/mesh"));
    let lock = dir.take().unwrap();
    dir.create_pod("pet-1").unwrap();
    for path in [dir.socket(), dir.token(), dir.config("pet-1"), dir.supervisor_log()] {
        write_private(&path, "x").unwrap();
    }
    fs::write(dir.log("pet-1", "app"), "why\n").unwrap();
    dir.abandon(true).unwrap();
    assert!(!dir.config("pet-1").exists() && !dir.token().exists());
    assert!(dir.log("pet-1", "app").exists() && dir.supervisor_log().exists());
    fs::remove_file(dir.log("pet-1", "app")).unwrap();
    dir.abandon(false).unwrap();
    assert!(!dir.path().exists());
    drop(lock);
    let lock = dir.take().unwrap();
    fs::write(dir.path().join("notes"), "").unwrap();
    dir.abandon(false).unwrap();
    assert!(dir.path().join("notes").exists());
    drop(lock);
    assert!(dir.take().is_ok(), "it is still ours");
}

#[test]
fn a_folder_of_somebody_else_is_left_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path());
    fs::create_dir(dir.pod("pet-1")).unwrap();
    fs::write(dir.kubeconfig(), "mine").unwrap();
    let error = dir.take().unwrap_err().to_string();
    assert!(error.contains("not empty") && error.contains("--dir"), "{error}");
    assert!(dir.pod("pet-1").exists() && !dir.is_ours());
    assert_eq!(fs::read_to_string(dir.kubeconfig()).unwrap(), "mine");
}

#[test]
fn a_lock_that_was_removed_guards_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::new(temp.path());
    let old = dir.take().unwrap();
    fs::remove_file(dir.lock()).unwrap();
    let new = dir.take().unwrap();
    drop(old);
    assert!(matches!(dir.take(), Err(Error::AlreadyRunning { .. })));
    drop(new);
}

#[test]
fn a_file_is_read_whole_while_it_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.json");
    let texts = ["a".repeat(1 << 16), "b".repeat(1 << 16)];
    write_private(&path, &texts[0]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..200 {
                write_private(&path, &texts[turn % 2]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let read = fs::read_to_string(&path).unwrap();
            assert!(texts.contains(&read), "{} bytes", read.len());
        }
    });
}

#[test]
fn a_private_file_is_new_each_time() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("token");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    write_private(&path, "new").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[test]
fn a_tail_is_the_last_lines() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("log");
    fs::write(&file, "one\ntwo\nthree\n").unwrap();
    assert_eq!(tail(&file, 2), "two\nthree");
    assert_eq!(tail(&file, 9), "one\ntwo\nthree");
    assert_eq!(tail(&temp.path().join("none"), 2), "");
}
