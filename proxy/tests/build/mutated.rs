//! Files broken in one place: refused as Envoy refuses them, with one error, where they are broken.
//!
//! `data/mutated/record.py` breaks shipped files and asks Envoy.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use serde_json::Value;
use xds::{Code, Diagnostic};

use super::broken::findings;

struct Mutation {
    file: String,
    kind: String,
    start: usize,
    end: usize,
    new: String,
    envoy: Option<String>,
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mutated"))
}

fn mutations() -> Vec<Mutation> {
    let text = std::fs::read_to_string(folder().join("mutations.jsonl")).unwrap();
    let text_of = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let number = |row: &Value, name: &str| usize::try_from(row[name].as_u64().unwrap()).unwrap();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        Mutation {
            file: text_of(&row, "file"),
            kind: text_of(&row, "kind"),
            start: number(&row, "start"),
            end: number(&row, "end"),
            new: text_of(&row, "new"),
            envoy: row["envoy"].as_str().map(str::to_owned),
        }
    };
    text.lines().map(row).collect()
}

/// The texts of the files by their names.
fn bases() -> HashMap<String, String> {
    let read = |mutation: &Mutation| {
        let path = folder().join(format!("{}.yaml", mutation.file));
        (mutation.file.clone(), std::fs::read_to_string(path).unwrap())
    };
    mutations().iter().map(read).collect()
}

impl Mutation {
    fn apply(&self, base: &str) -> String {
        [&base[..self.start], &self.new, &base[self.end..]].concat()
    }

    /// Whether another place is on the changed lines, or below the key that begins there.
    fn covers(&self, other: &Self, base: &str) -> bool {
        let lines: Vec<_> = base.lines().collect();
        let last = self.last_line(base);
        let line_start = base[..self.start].rfind('\n').map_or(0, |end| end + 1);
        let column = if base[line_start..self.start].trim().is_empty() {
            lines[self.line(base) - 1].len() - lines[self.line(base) - 1].trim_start().len()
        } else {
            base[line_start..self.start].find(|c: char| c != ' ' && c != '-').unwrap_or(0)
        };
        let below = lines[last..].iter().take_while(|line| {
            let own = line.len() - line.trim_start().len();
            own > column || own == column && line.trim_start().starts_with("- ")
        });
        (self.line(base)..=last + below.count()).contains(&other.line(base))
    }

    fn line(&self, base: &str) -> usize {
        base[..self.start].matches('\n').count() + 1
    }

    /// The last line that was changed.
    fn last_line(&self, base: &str) -> usize {
        base[..self.end].matches('\n').count() + 1
    }

    fn shown(&self, base: &str) -> String {
        let line = base.lines().nth(self.line(base) - 1).unwrap_or_default().trim();
        let envoy = self.envoy.as_deref().unwrap_or("accepts it");
        format!(
            "{} {}:{} `{line}` with {:?}\n  Envoy: {envoy}",
            self.kind,
            self.file,
            self.line(base),
            self.new
        )
    }
}

fn errors(name: &str, text: &str) -> Vec<Diagnostic> {
    findings(name, text).into_iter().filter(Diagnostic::is_error).collect()
}

/// Accepted on purpose: forms of 2018, where a name alone was enough; and an EDS file without a node, which only a control
/// plane would have to know.
fn accepted_on_purpose(mutation: &Mutation, base: &str) -> bool {
    let envoy = mutation.envoy.as_deref().unwrap_or_default();
    let removed = base[mutation.start..mutation.end].trim_start();
    mutation.kind == "drop"
        && (envoy.starts_with("Didn't find a registered implementation")
            && removed.starts_with("typed_config")
            || envoy.contains("node 'id' and 'cluster' are required") && removed.starts_with("node"))
}

#[test]
fn one_mutation_is_refused_as_envoy_does_with_one_error_where_it_is() {
    let bases = bases();
    let mut wrong = Vec::new();
    let all = mutations();
    for mutation in &all {
        let base = &bases[&mutation.file];
        let text = mutation.apply(base);
        let found = errors("t.yaml", &text);
        let mut problem = None;
        if found.is_empty() != mutation.envoy.is_none()
            && !(found.is_empty() && accepted_on_purpose(mutation, base))
        {
            problem = Some("differs from Envoy");
        }
        // What is taken away is missed in every place that needs it.
        let references = found.iter().all(|error| error.code == Code::Reference);
        if found.len() > 1 && !(references && mutation.kind == "drop") {
            problem = Some("has more than one error");
        }
        let lines = mutation.line(base)..=mutation.last_line(base);
        let at = found.first().and_then(|error| error.line);
        if !matches!(&*mutation.kind, "drop") && at.is_some_and(|at| !lines.contains(&(at as usize))) {
            problem = Some("names another line");
        }
        if let Some(problem) = problem {
            let found: Vec<_> =
                found.iter().map(|error| format!("  {}: {error}", error.code.as_str())).collect();
            wrong.push(format!("{problem}: {}\n{}", mutation.shown(base), found.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[test]
fn mistakes_of_different_stages_come_in_one_run() {
    let bases = bases();
    let all = mutations();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (at, first) in all.iter().enumerate() {
        let base = &bases[&first.file];
        // One of the reader's errors, one of a name that is not there, and one of the builder's.
        let others = all.iter().filter(|other| {
            other.file == first.file && !first.covers(other, base) && !other.covers(first, base)
        });
        let seconds = ["cluster", "enum", "number"].map(|kind| {
            let of_kind: Vec<_> = others.clone().filter(|other| other.kind == kind).collect();
            of_kind.get(at % of_kind.len().max(1)).copied()
        });
        let alone = errors("t.yaml", &first.apply(base));
        // Nothing is said of the rest of a file that is no YAML.
        if at % 5 != 0 || alone.is_empty() || alone.iter().any(|error| error.code == Code::Syntax) {
            continue;
        }
        for second in seconds.into_iter().flatten() {
            let more = errors("t.yaml", &second.apply(base));
            // Where it is open which clusters there are, nothing is said of their names.
            let open = |errors: &[Diagnostic]| errors.iter().any(leaves_clusters_open);
            let names = |errors: &[Diagnostic]| errors.iter().any(|error| error.code == Code::Reference);
            // What lies inside a broken part is not read.
            let inside = |inner: &[Diagnostic], outer: &[Diagnostic]| {
                inner.iter().any(|inner| outer.iter().any(|outer| is_inside(inner, outer)))
            };
            let related = inside(&more, &alone) || inside(&alone, &more) || names(&alone) && names(&more);
            if related || more.is_empty() || open(&alone) && names(&more) || open(&more) && names(&alone) {
                continue;
            }
            count += 1;
            let (late, early) = if first.start > second.start { (first, second) } else { (second, first) };
            let text = early.apply(&late.apply(base));
            let said = |errors: &[Diagnostic]| -> BTreeSet<_> {
                errors.iter().map(|error| (error.path.clone(), error.message.clone())).collect()
            };
            let both = errors("t.yaml", &text);
            let expected: BTreeSet<_> = said(&alone).union(&said(&more)).cloned().collect();
            if said(&both) != expected {
                let (one, two, found) = (first.shown(base), second.shown(base), said(&both));
                wrong.push(format!("{one}\nwith {two}\n  expected {expected:#?}\n  found {found:#?}"));
            }
        }
    }
    assert!(count > 100, "{count}");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

fn is_inside(inner: &Diagnostic, outer: &Diagnostic) -> bool {
    let (inner, outer) =
        (inner.path.as_deref().unwrap_or_default(), outer.path.as_deref().unwrap_or_default());
    inner.starts_with(outer)
}

/// Whether an error leaves it open which clusters there are.
fn leaves_clusters_open(error: &Diagnostic) -> bool {
    let path = error.path.as_deref().unwrap_or_default();
    path == "static_resources"
        || path.strip_prefix("static_resources.").is_some_and(|rest| {
            !rest.contains('.') && !rest.starts_with("listeners")
                || (rest.ends_with("].name") || rest.ends_with("].namex")) && rest.matches('.').count() == 1
        }) && !path.starts_with("static_resources.listeners")
}
