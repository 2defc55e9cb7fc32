//! What documents name exists, and the tour follows the code.

use std::path::Path;

use tidy::{Findings, Tree, code_spans, links, section};

#[test]
fn relative_links_lead_somewhere() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("", "md") {
        for (line, target) in links(&tree.text(file)?) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !elsewhere && !exists(&tree, file, path) {
                findings
                    .add(format!("{file}:{line}: the link to {path} leads nowhere: correct or remove it"));
            }
        }
    }
    findings.none_or()
}

/// A path is a code span whose first part is a folder, of the root or beside the document: `proxy/src/exchange.rs`, `deploy/config/`, or, with a
/// name from the file, `proxy/src/exchange.rs::exchange`. A bare `exchange.rs` must be the name of some file.
#[test]
fn paths_named_in_documents_exist() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("", "md") {
        for (line, span) in code_spans(&tree.text(file)?) {
            let (path, symbol) =
                span.split_once("::").map_or((span.as_str(), None), |(path, name)| (path, Some(name)));
            if names_a_source(path) && !tree.files.iter().any(|known| known.rsplit('/').next() == Some(path))
            {
                findings.add(format!("{file}:{line}: no file is called `{path}`: correct the name"));
            }
            if !names_a_path(&tree, file, path) {
                continue;
            }
            if !exists(&tree, file, path) && !tree.exists(path) {
                findings.add(format!("{file}:{line}: `{path}` does not exist: correct the path"));
            } else if let Some(symbol) = symbol.filter(|_| Path::new(path).extension().is_some())
                && !has_word(&tree.text(path)?, symbol)
            {
                findings.add(format!("{file}:{line}: `{path}` has no `{symbol}`: correct the name"));
            }
        }
    }
    findings.none_or()
}

/// The documents follow the code: `ARCHITECTURE.md`, section "Reading order", and the header of `proxy/src/lib.rs`.
#[test]
fn the_reading_tour_has_the_order_of_the_code() -> Result<(), Findings> {
    const PAGE: &str = "ARCHITECTURE.md";
    const MAP: &str = "proxy/src/lib.rs";
    let tree = Tree::read()?;
    let page = section(&tree.text(PAGE)?, "Reading order");
    let page = page.ok_or_else(|| {
        Findings::one(format!("{PAGE}: write a section \"Reading order\" with the files of {MAP}"))
    })?;
    let map = tree.text(MAP)?;
    let header: Vec<&str> = map.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let (tour, stations) = (sources(&page), sources(&header.join("\n")));

    let mut findings = Findings::default();
    if stations.is_empty() {
        findings.add(format!(
            "{MAP}: name the files in its header, as `file.rs`, in the order in which they are read"
        ));
    }
    if tour != stations {
        findings.add(format!("{PAGE}, section \"Reading order\", names\n    {tour:?}\n  but the header of {MAP} names\n    {stations:?}\n  make them equal"));
    }
    for station in stations.iter().filter(|station| !tree.exists(&format!("proxy/src/{station}"))) {
        findings
            .add(format!("{MAP}: its header names `{station}`, which is not in proxy/src: correct the name"));
    }
    findings.none_or()
}

#[test]
fn every_folder_says_what_it_is() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for folder in ["crates", "services", "deploy/components"].iter().flat_map(|above| tree.folders_in(above))
    {
        let header =
            |file: &str| tree.text(&format!("{folder}/src/{file}")).is_ok_and(|text| text.starts_with("//!"));
        if !tree.exists(&format!("{folder}/README.md")) && !header("lib.rs") && !header("main.rs") {
            findings.add(format!(
                "{folder}: write a README.md, or a `//!` header in its lib.rs, that says what it is"
            ));
        }
    }
    findings.none_or()
}

/// Relative to the document or, with a leading slash, to the root.
fn exists(tree: &Tree, document: &str, path: &str) -> bool {
    match path.strip_prefix('/') {
        Some(from_root) => tree.exists(from_root),
        None => tree.root.join(document).parent().is_some_and(|folder| folder.join(path).exists()),
    }
}

fn names_a_source(span: &str) -> bool {
    span.ends_with(".rs") && is_plain(span) && !span.contains('/')
}

fn names_a_path(tree: &Tree, document: &str, span: &str) -> bool {
    let beside = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let folders = span.split_once('/').map(|(first, _)| [format!("{first}/"), format!("{beside}/{first}/")]);
    let known = |folder: &String| tree.files.iter().any(|file| file.starts_with(folder.as_str()));
    is_plain(span) && folders.is_some_and(|folders| folders.iter().any(known))
}

/// No pattern, placeholder or command.
fn is_plain(span: &str) -> bool {
    span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|found| found == word)
}

/// The `.rs` files in code spans, in order, without `proxy/src/`.
fn sources(text: &str) -> Vec<String> {
    let spans =
        code_spans(text).into_iter().map(|(_, span)| span.trim_start_matches("proxy/src/").to_owned());
    spans.filter(|span| span.ends_with(".rs") && is_plain(span)).collect()
}
