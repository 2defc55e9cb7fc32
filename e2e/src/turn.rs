//! One mesh at a time: the addresses and the cores are the same for all tests.

use std::fs::File;

/// One file, locked: it works between the processes of nextest as between the threads of `cargo test`.
pub fn wait() -> File {
    let path = std::env::temp_dir().join("petmesh-e2e.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    file.lock().expect("the lock of the mesh's addresses");
    file
}
