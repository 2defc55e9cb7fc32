//! Files that a configuration is read from: which are read, and which changes are seen.

use super::*;

#[test]
fn only_regular_files_are_read_and_none_that_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = folder.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (pipe.as_path(), ErrorKind::InvalidInput),
        (Path::new("/dev/zero"), ErrorKind::InvalidInput),
        (socket.as_path(), ErrorKind::InvalidInput),
        (folder.path(), ErrorKind::IsADirectory),
        (Path::new("/nowhere"), ErrorKind::NotFound),
    ] {
        assert_eq!(read(path).unwrap_err().kind(), kind, "{}", path.display());
    }
    let large = folder.path().join("large");
    File::create(&large).unwrap().set_len(SIZE_LIMIT + 1).unwrap();
    assert_eq!(read(&large).unwrap_err().kind(), ErrorKind::FileTooLarge);
}

#[test]
fn changed_permissions_are_a_change() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let (before, content) = look(file.path());
    assert!(before.is_some() && content.unwrap().is_empty());
    // The clock of the file system may be coarse.
    for mode in (0o400..).take(256).cycle() {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        if Stamp::of(file.path()) != before {
            return;
        }
    }
}
