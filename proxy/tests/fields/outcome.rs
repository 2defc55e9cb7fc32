//! What a file becomes: the graph that is built from it, printed; or the findings that refuse it; or an admin page.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Mutex;

use proxy::access_log::LogWriter;
use proxy::build::{self, Flavor, Graph, Node, Parts};
use proxy::stats::Registry;
use serde_json::Value;

use crate::case::Effect;
use crate::page;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Built(String),
    Refused(String),
}

/// What building needs: a log writer, and a folder for logs and texts in place of `/folder`.
pub struct Bench {
    logs: LogWriter,
    folder: tempfile::TempDir,
    /// What the files without a change gave, as many cases share one.
    bases: Mutex<HashMap<String, Result<String, String>>>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "a text in a file\n").unwrap();
        Self { logs: LogWriter::start(&Registry::new(0)).unwrap(), folder, bases: Mutex::default() }
    }

    /// What a file without a change becomes. It is built twice, because what is random would pass for a change.
    pub fn base(&self, file: &Value, effect: &Effect) -> Result<String, String> {
        let key = format!("{effect:?} {file}");
        if let Some(known) = self.bases.lock().unwrap().get(&key) {
            return known.clone();
        }
        let found = match (self.outcome(file, effect), self.outcome(file, effect)) {
            (Outcome::Refused(findings), _) => {
                Err(format!("the file without the change is refused:\n{findings}"))
            }
            (first, second) if first != second => {
                Err("the same file gives two renderings: something in it is random".to_owned())
            }
            (Outcome::Built(text), _) => Ok(text),
        };
        self.bases.lock().unwrap().insert(key, found.clone());
        found
    }

    /// What a file becomes, as far as `effect` looks.
    pub fn outcome(&self, file: &Value, effect: &Effect) -> Outcome {
        let text = file.to_string().replace("\"/folder/", &format!("\"{}/", self.folder.path().display()));
        let refused = |findings: Vec<xds::Diagnostic>| {
            let errors = findings.iter().filter(|finding| finding.is_error());
            Outcome::Refused(errors.map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let read = match xds::read_bootstrap("case.yaml", &text) {
            Ok(read) => read,
            Err(findings) => return refused(findings),
        };
        let registry = Registry::new(0);
        let parts = Parts {
            node: Node::new(&read.message, None, None),
            flavor: Flavor::Sidecar,
            registry: &registry,
            logs: Some(&self.logs),
            runtime: &[],
            files: None,
        };
        match build::graph(&read, parts, None) {
            Err(findings) => refused(findings),
            Ok((graph, _)) => match effect {
                Effect::Built | Effect::Refused(_) => Outcome::Built(rendering(&graph)),
                Effect::Page(path) => Outcome::Built(page::body(&read.message, &graph, &registry, path)),
            },
        }
    }
}

/// Everything that the graph holds but the messages it was made from, and what is derived from other facts of it.
fn rendering(graph: &Graph) -> String {
    let Graph { listeners, clusters, admin, admin_log, runtime, node, server_version, overload } = graph;
    let mut text = format!("{admin:#?}\n{admin_log:#?}\n{runtime:#?}\n{node:#?}\n{server_version}\n");
    let _ = writeln!(text, "{overload:#?}");
    for part in listeners {
        let _ = writeln!(text, "{:#?}", part.listener);
    }
    for (name, part) in clusters {
        let prefix = part.stats.prefix();
        let _ = writeln!(text, "{name} {prefix} {:#?} {:#?}", part.policy, part.discovery);
    }
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("fingerprint: "));
    lines.collect::<Vec<_>>().join("\n")
}
