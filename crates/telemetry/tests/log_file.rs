//! The log of a whole process: one test, since a process has one log.

use telemetry::{Error, LogOptions, init};

#[test]
fn lines_are_appended_to_the_file_and_a_process_has_one_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pet.log");
    std::fs::write(&path, "from the last run\n").expect("a file");
    let options = LogOptions { level: Some("warning".to_owned()), path: Some(path.clone()) };
    let missing = LogOptions { path: Some(folder.path().join("none/pet.log")), ..LogOptions::default() };
    assert!(matches!(init(missing), Err(Error::Open { .. })));

    let handle = init(options.clone()).expect("the first log");
    tracing::info!("quiet");
    tracing::warn!("loud");
    assert_eq!(handle.level(), "warning");
    assert!(matches!(init(options), Err(Error::Twice)));

    let text = std::fs::read_to_string(&path).expect("the log");
    assert!(
        text.starts_with("from the last run\n") && text.contains("loud") && !text.contains("quiet"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours in a file");
}
