//! Where each field of a read file stands, so that later findings can point at it.

use std::sync::Arc;

use super::path::Path;
use super::tree::{Kind, Node, Span};
use crate::diagnostic::{Code, Diagnostic};

/// The places of all fields of one file; cheap to clone.
#[derive(Debug, Clone)]
pub struct Positions {
    file: Arc<str>,
    root: Arc<Node>,
}

impl Positions {
    pub(crate) fn new(file: &str, root: Node) -> Self {
        Self { file: file.into(), root: Arc::new(root) }
    }

    /// Positions of a resource that did not come from a text: findings carry the path only.
    pub fn none(name: &str) -> Self {
        Self::new(name, Node::new(Span::default(), Kind::Map(Vec::new())))
    }

    /// The tree of the file.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// Name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// An error at a field; see [`Positions::locate`] for the path.
    pub fn error(&self, path: &str, code: Code, message: impl Into<String>) -> Diagnostic {
        self.locate(path, Diagnostic::error(&self.file, code, message))
    }

    /// A warning at a field; see [`Positions::locate`] for the path.
    pub fn warning(&self, path: &str, code: Code, message: impl Into<String>) -> Diagnostic {
        self.locate(path, Diagnostic::warning(&self.file, code, message))
    }

    /// Line and column of a field, both 1-based, or of the nearest field around it.
    pub fn line_column(&self, path: &str) -> Option<(u32, u32)> {
        let diagnostic = self.error(path, Code::Structure, "");
        diagnostic.line.zip(diagnostic.column)
    }

    /// Puts a finding at a field. `path` uses today's names, as
    /// `static_resources.clusters[0].load_assignment`; map keys are `["key"]`. The diagnostic gets the file's own
    /// spelling, and the place of the nearest field around when the file does not have this one.
    fn locate(&self, path: &str, diagnostic: Diagnostic) -> Diagnostic {
        let steps = steps(path);
        find(&self.root, &steps, Path::ROOT, diagnostic)
    }
}

enum Step {
    Key(String),
    Index(usize),
}

fn find(node: &Node, steps: &[Step], path: Path<'_>, diagnostic: Diagnostic) -> Diagnostic {
    let path = path.moved(node.written.as_deref());
    match (steps.first(), &node.kind) {
        (Some(Step::Key(name)), Kind::Map(entries)) => {
            let same = |written: &str| written == name || snake(written) == *name;
            if let Some(entry) = entries.iter().rev().find(|entry| same(&entry.name)) {
                return find(&entry.value, &steps[1..], path.key(entry.spelling()), diagnostic);
            }
        }
        (Some(Step::Index(index)), Kind::List(items)) => {
            if let Some(item) = items.get(*index) {
                return find(item, &steps[1..], path.index(*index), diagnostic);
            }
        }
        // A single value stands for a list of one.
        (Some(Step::Index(0)), Kind::Map(_) | Kind::Scalar(_)) => {
            return find(node, &steps[1..], path, diagnostic);
        }
        _ => {}
    }
    rest(node.span, steps, &path, diagnostic)
}

/// What the file does not have is named all the same.
fn rest(span: Span, steps: &[Step], path: &Path<'_>, diagnostic: Diagnostic) -> Diagnostic {
    match steps.split_first() {
        Some((Step::Key(name), after)) => rest(span, after, &path.key(name), diagnostic),
        Some((Step::Index(index), after)) => rest(span, after, &path.index(*index), diagnostic),
        None => {
            let path = path.to_string();
            let diagnostic = if span.line == 0 { diagnostic } else { diagnostic.at(span) };
            diagnostic.path(path)
        }
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("[\"") {
            let end = after.find("\"]").unwrap_or(after.len());
            steps.push(Step::Key(after[..end].to_owned()));
            rest = after.get(end + 2..).unwrap_or_default();
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']').unwrap_or(after.len());
            steps.push(Step::Index(after[..end].parse().unwrap_or_default()));
            rest = after.get(end + 1..).unwrap_or_default();
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        if steps.len() > 200 {
            break;
        }
    }
    steps
}

/// `statPrefix` as `stat_prefix`.
pub(super) fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
