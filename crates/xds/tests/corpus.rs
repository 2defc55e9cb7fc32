//! Replays what the fuzz targets found worth keeping (`crates/xds/fuzz/corpus`).

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml exempts only the test functions

#[path = "../fuzz/bodies.rs"]
mod bodies;

fn replay(target: &str, body: fn(&str)) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if let Ok(text) = std::str::from_utf8(&bytes) {
            body(text);
            count += 1;
        }
    }
    assert!(count >= 10, "{target}: only {count} inputs");
}

#[test]
fn the_corpus_of_the_reader_holds() {
    replay("read", bodies::read);
}

#[test]
fn the_corpus_of_the_upgrade_pass_holds() {
    replay("upgrade", bodies::upgrade);
}
