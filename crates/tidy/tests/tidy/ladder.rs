//! Which modules of the proxy may import which.

use tidy::{Findings, Tree, code, code_spans, paths_below, section};

/// From the top: a module imports only modules of lower rungs, none of its own rung.
const LADDER: [&[&str]; 18] = [
    &["main"],
    &["app"],
    &["control", "worker"],
    &["admin", "listener"],
    &["connection"],
    &["exchange", "tcp", "build"],
    &["snapshot"],
    &["local"],
    &["upstream", "downstream"],
    &["route", "cluster"],
    &["filter"],
    &["local_reply"],
    &["access_log", "affinity", "headers", "retry", "trace"],
    &["format"],
    &["matcher", "http1", "http2", "grpc"],
    &["stream_info"],
    &["message", "error", "state", "stats", "time", "args"],
    &["overload", "memory"],
];
/// The stations of a request; the control plane meets them in `snapshot` and nowhere else.
const DATA_PLANE: [&str; 4] = ["listener", "connection", "exchange", "tcp"];

/// One `crate::{to}` in the file of a module.
struct Import {
    file: String,
    line: usize,
    from: String,
    to: String,
}

#[test]
fn modules_import_only_from_lower_rungs() -> Result<(), Findings> {
    let mut findings = Findings::default();
    for Import { file, line, from, to } in imports()? {
        let place = format!("{file}:{line}");
        match (rung(&from), rung(&to)) {
            (Some(above), Some(below)) if above < below => {}
            (Some(_), Some(_)) => findings.add(format!(
                "{place}: {from} imports {to}, which is not below it: move what they share down, or pass it as an argument"
            )),
            (from_rung, _) => {
                let unknown = if from_rung.is_none() { from } else { to };
                findings.add(format!(
                    "{place}: module {unknown} has no rung: give it one in crates/tidy/tests/tidy/ladder.rs and in ARCHITECTURE.md"
                ));
            }
        }
    }
    findings.none_or()
}

#[test]
fn the_planes_meet_only_in_the_snapshot() -> Result<(), Findings> {
    let mut findings = Findings::default();
    for Import { file, line, from, to } in imports()? {
        let across = |one: &str, other: &str| one == "control" && DATA_PLANE.contains(&other);
        if across(&from, &to) || across(&to, &from) {
            findings.add(format!(
                "{file}:{line}: {from} imports {to}: the control plane publishes a snapshot, the data plane reads it; they know nothing else of each other"
            ));
        }
        if to == "build" && DATA_PLANE.contains(&&*from) {
            findings.add(format!(
                "{file}:{line}: {from} imports build, which makes the snapshot: read what it made"
            ));
        }
    }
    findings.none_or()
}

/// The documents show this ladder: a table in `ARCHITECTURE.md`, section "The ladder", and the header of the proxy's library.
#[test]
fn the_documents_show_the_same_ladder() -> Result<(), Findings> {
    const PAGE: &str = "ARCHITECTURE.md";
    const MAP: &str = "proxy/src/lib.rs";
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let page = section(&tree.text(PAGE)?, "The ladder").unwrap_or_default();
    let rows: Vec<Vec<String>> =
        page.lines().filter(|line| line.starts_with("| ")).map(names).filter(|row| !row.is_empty()).collect();
    if rows != LADDER {
        findings.add(format!("{PAGE}, section \"The ladder\", shows\n    {rows:?}\n  but imports are checked against\n    {LADDER:?}\n  make them equal"));
    }
    let map = tree.text(MAP)?;
    let header: Vec<&str> = map.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let (shown, checked) = (names(&header.join("\n")), LADDER.concat());
    if shown != checked {
        findings.add(format!("{MAP}: its header shows the ladder\n    {shown:?}\n  but imports are checked against\n    {checked:?}\n  make them equal"));
    }
    findings.none_or()
}

/// The modules in code spans, in order; files are no modules.
fn names(text: &str) -> Vec<String> {
    code_spans(text).into_iter().map(|(_, span)| span).filter(|span| !span.contains('.')).collect()
}

/// Every `crate::x` of the proxy, within one module left out. `lib.rs` is the map of modules and has no rung.
fn imports() -> Result<Vec<Import>, Findings> {
    let tree = Tree::read()?;
    let mut imports = Vec::new();
    for file in tree.with_extension("proxy/src/", "rs").filter(|file| *file != "proxy/src/lib.rs") {
        let from = file.trim_start_matches("proxy/src/").split(['/', '.']).next().unwrap_or_default();
        let code = code(&tree.text(file)?);
        let paths = paths_below(&code, "crate").into_iter().chain(paths_below(&code, "proxy"));
        imports.extend(paths.filter(|(_, to)| is_module(to) && to != from).map(|(line, to)| Import {
            file: file.to_owned(),
            line,
            from: from.to_owned(),
            to,
        }));
    }
    Ok(imports)
}

/// `crate::Thing` names a re-export of the map, not a module.
fn is_module(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn rung(module: &str) -> Option<usize> {
    LADDER.iter().position(|rung| rung.contains(&module))
}
