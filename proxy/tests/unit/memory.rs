//! Memory: control groups of both versions, inside and outside a container.

use std::fs;

use super::*;

/// A mount with these files.
fn mount(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn read(files: &[(&str, &str)], own: &str) -> Option<(Option<u64>, u64)> {
    let root = mount(files);
    let group = Cgroup::find(root.path(), own)?;
    Some((group.limit(), group.usage().unwrap()))
}

#[test]
fn the_limit_and_the_usage_are_those_of_the_process_without_the_page_cache() {
    let stat = "anon 1\nfile 30\ninactive_file 10\nactive_file 20\n";
    for folder in ["", "a/b/"] {
        let at = |name: &str| format!("{folder}{name}");
        let files = [at("memory.max"), at("memory.current"), at("memory.stat")];
        let [limit, used, stats] = files.each_ref().map(String::as_str);
        let files = [(limit, "41943040\n"), (used, "1030\n"), (stats, stat)];
        // Where the named group is not to be seen, the mount is that of the container.
        assert_eq!(read(&files, "0::/a/b\n"), Some((Some(40 << 20), 1000)), "{folder}");
    }
    let old = "cache 30\ntotal_inactive_file 10\ntotal_active_file 20\n";
    let files = [
        ("memory/a/memory.limit_in_bytes", "41943040\n"),
        ("memory/a/memory.usage_in_bytes", "1030\n"),
        ("memory/a/memory.stat", old),
    ];
    let own = "5:cpu,cpuacct:/x\n4:memory:/a\n1:name=systemd:/\n0::/\n";
    assert_eq!(read(&files, own), Some((Some(40 << 20), 1000)));
}

#[test]
fn a_group_without_a_limit_has_none_and_no_group_is_no_error() {
    let rest = [("memory.current", "5"), ("memory.stat", "")];
    assert_eq!(read(&[("memory.max", "max\n"), rest[0], rest[1]], "0::/"), Some((None, 5)));
    let files = [
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/memory.usage_in_bytes", "5\n"),
        ("memory/memory.stat", ""),
    ];
    assert_eq!(read(&files, "4:memory:/elsewhere\n"), Some((None, 5)));
    for own in ["", "0::/\n", "nonsense", "4:memory:/\n"] {
        assert_eq!(read(&[], own), None, "{own:?}");
    }
}
