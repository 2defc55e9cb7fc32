//! YAML or JSON text to a tree; JSON is YAML in flow style, so one parser could serve both.
//!
//! Bounded against hostile input: size of the text, depth, and number of nodes (aliases are copies).

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as Source, options};

use super::tree::{Entry, Kind, Node, Scalar, Span};
use super::{cause, json};
use crate::diagnostic::{Code, Diagnostic};

/// Deepest nesting that is read; real files have about 20 levels.
const MAX_DEPTH: usize = 100;
/// Largest text, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// Most nodes, those copied by aliases included.
const MAX_NODES: usize = 1_000_000;
/// Most bytes copied by aliases.
const MAX_COPIED: usize = 32 << 20;

/// The tree of the first document of a text. `None` is an empty document.
pub(crate) fn parse(file: &str, text: &str) -> Result<Option<Node>, Box<Diagnostic>> {
    parse_noting(file, text, &mut Vec::new())
}

/// The same; what is worth a warning is added to `notes`.
pub(crate) fn parse_noting(
    file: &str,
    text: &str,
    notes: &mut Vec<Diagnostic>,
) -> Result<Option<Node>, Box<Diagnostic>> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Box::new(Diagnostic::error(file, Code::Limit, message)));
    }
    if let Some(offset) = text.bytes().position(|b| b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) {
        let span = span_at(text, offset);
        let message = "the file holds a control character: it is not a text".to_owned();
        return Err(Box::new(Diagnostic::error(file, Code::Syntax, message).at(span)));
    }
    if let Some(root) = json::parse(text, MAX_DEPTH, MAX_NODES) {
        return Ok(Some(root));
    }
    let root = Builder::new(file, text).document(notes)?;
    // The parser takes tabs where Envoy's does not.
    match cause::tab(text) {
        Some(cause) => Err(Box::new(because(file, text, &cause))),
        None => Ok(root),
    }
}

fn because(file: &str, text: &str, cause: &cause::Cause) -> Diagnostic {
    let mut span = span_at(text, cause.start);
    span.end = number(cause.end);
    Diagnostic::error(file, Code::Syntax, cause.message).at(span).suggestion(cause.remedy)
}

/// The tree of a text by the YAML parser, also where it is JSON.
#[cfg(test)]
pub(super) fn by_yaml(text: &str) -> Result<Option<Node>, Box<Diagnostic>> {
    Builder::new("test", text).document(&mut Vec::new())
}

struct Builder<'a> {
    file: &'a str,
    text: &'a str,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Nodes with an anchor, with their depth.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    copied: usize,
}

/// A collection that is still open.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<Key>,
    /// Depth of the deepest node below, this one included.
    height: usize,
}

struct Key {
    name: String,
    span: Span,
    ignored: bool,
}

impl<'a> Builder<'a> {
    fn new(file: &'a str, text: &'a str) -> Self {
        let options = options! {
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
            simple_key_max_lookahead: 1 << 20,
        };
        let parser = Parser::new_from_str_with_options(text, options);
        Self { file, text, parser, anchors: HashMap::new(), nodes: 0, copied: 0 }
    }

    fn document(mut self, notes: &mut Vec<Diagnostic>) -> Result<Option<Node>, Box<Diagnostic>> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let (event, source) = match self.parser.next() {
                Some(Ok(next)) => next,
                Some(Err(error)) => return Err(self.scan_error(&error)),
                None => return Ok(None),
            };
            let span = span(&source);
            let (node, height) = match event {
                Event::DocumentEnd | Event::StreamEnd => return Ok(None),
                Event::Scalar(text, style, anchor, tag) => {
                    let ignored = tag.as_ref().is_some_and(|tag| tag.suffix() == "ignore");
                    let quoted = !matches!(style, ScalarStyle::Plain);
                    if let Some(Open { node: Node { kind: Kind::Map(_), .. }, key: key @ None, .. }) =
                        open.last_mut()
                    {
                        *key = Some(Key { name: text.into_owned(), span, ignored });
                        continue;
                    }
                    let node = Node::new(span, Kind::Scalar(Scalar { text: text.into_owned(), quoted }));
                    self.anchor(anchor, &node, 1)?;
                    (node, 1)
                }
                Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                    let map = matches!(event, Event::MappingStart(..));
                    self.not_a_key(open.last(), span)?;
                    let kind = if map { Kind::Map(Vec::new()) } else { Kind::List(Vec::new()) };
                    open.push(Open { node: Node::new(span, kind), anchor, key: None, height: 1 });
                    if open.len() > MAX_DEPTH {
                        return Err(self.too_deep(span));
                    }
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(mut done) = open.pop() else { continue };
                    done.node.span.end = span.start.max(done.node.span.start);
                    self.anchor(done.anchor, &done.node, done.height)?;
                    (done.node, done.height)
                }
                Event::Alias(anchor) => {
                    self.not_a_key(open.last(), span)?;
                    self.alias(anchor, span)?
                }
                _ => continue,
            };
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(self.error(Code::Limit, "the file holds too many values", span));
            }
            let depth = open.len();
            let Some(parent) = open.last_mut() else { return self.rest(notes).map(|()| Some(node)) };
            parent.height = parent.height.max(height + 1);
            if depth + height > MAX_DEPTH {
                return Err(self.too_deep(span));
            }
            attach(parent, node);
        }
    }

    /// Only a text may stand where a key is due.
    fn not_a_key(&self, open: Option<&Open>, span: Span) -> Result<(), Box<Diagnostic>> {
        match open {
            Some(Open { node: Node { kind: Kind::Map(_), .. }, key: None, .. }) => {
                Err(self.error(Code::Syntax, "a key must be a text", span))
            }
            _ => Ok(()),
        }
    }

    /// Documents after the first are ignored, as in Envoy, but not in silence; they must be YAML all the same.
    fn rest(&mut self, notes: &mut Vec<Diagnostic>) -> Result<(), Box<Diagnostic>> {
        let mut noted = false;
        for next in self.parser.by_ref() {
            match next {
                Ok((Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd, _)) => {}
                Ok((Event::Scalar(text, ..), _)) if matches!(&*text, "" | "~") => {}
                Ok((_, source)) if !noted => {
                    let text = "a second document is ignored: a file holds one configuration";
                    let finding = Diagnostic::warning(self.file, Code::SecondDocument, text);
                    notes.push(finding.at(span(&source)));
                    noted = true;
                }
                Ok(_) => {}
                Err(error) => return Err(self.scan_error(&error)),
            }
        }
        Ok(())
    }

    /// A copy of the node that an alias names.
    fn alias(&mut self, anchor: usize, span: Span) -> Result<(Node, usize), Box<Diagnostic>> {
        let Some((node, height)) = self.anchors.get(&anchor) else {
            return Err(self.error(
                Code::Syntax,
                "an alias may not stand inside the value that it names",
                span,
            ));
        };
        let (node, height) = (node.clone(), *height);
        self.charge(&node, span)?;
        Ok((node, height))
    }

    /// Keeps a copy of a node that has an anchor (0 is none).
    fn anchor(&mut self, anchor: usize, node: &Node, height: usize) -> Result<(), Box<Diagnostic>> {
        if anchor != 0 {
            self.charge(node, node.span)?;
            self.anchors.insert(anchor, (node.clone(), height));
        }
        Ok(())
    }

    /// Counts a copy.
    fn charge(&mut self, node: &Node, span: Span) -> Result<(), Box<Diagnostic>> {
        let (nodes, bytes) = size(node);
        self.nodes += nodes;
        self.copied += bytes;
        if self.nodes > MAX_NODES || self.copied > MAX_COPIED {
            return Err(self.error(Code::Limit, "aliases multiply the file beyond all measure", span));
        }
        Ok(())
    }

    fn too_deep(&self, span: Span) -> Box<Diagnostic> {
        self.error(Code::Limit, &format!("nested deeper than {MAX_DEPTH} levels"), span)
    }

    fn scan_error(&self, error: &ScanError) -> Box<Diagnostic> {
        let mark = error.marker();
        let at = mark.byte_offset().unwrap_or_default().min(self.text.len());
        if let Some(cause) = cause::of(self.text, at) {
            return Box::new(because(self.file, self.text, &cause));
        }
        let start = number(at);
        let span = Span { line: number(mark.line()), column: number(mark.col() + 1), start, end: start };
        self.error(Code::Syntax, &error.info(), span)
    }

    fn error(&self, code: Code, message: &str, span: Span) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(self.file, code, message.to_owned()).at(span))
    }
}

fn attach(parent: &mut Open, node: Node) {
    match &mut parent.node.kind {
        Kind::List(items) => items.push(node),
        Kind::Map(entries) => {
            let Some(Key { name, span, ignored }) = parent.key.take() else { return };
            // Envoy drops what stands under a key with the tag `!ignore`: a place for anchors.
            if !ignored {
                entries.push(Entry { name, written: None, span, value: node, made: false });
            }
        }
        Kind::Scalar(_) => {}
    }
}

/// Nodes and bytes of text below a node; the depth is bounded.
fn size(node: &Node) -> (usize, usize) {
    let sum = |(n, b): (usize, usize), (m, c): (usize, usize)| (n + m, b + c);
    match &node.kind {
        Kind::Scalar(scalar) => (1, scalar.text.len()),
        Kind::List(items) => items.iter().map(size).fold((1, 0), sum),
        Kind::Map(entries) => {
            entries.iter().map(|e| sum(size(&e.value), (0, e.name.len()))).fold((1, 0), sum)
        }
    }
}

fn span(source: &Source) -> Span {
    Span {
        line: number(source.start.line()),
        column: number(source.start.col() + 1),
        start: number(source.start.byte_offset().unwrap_or_default()),
        end: number(source.end.byte_offset().unwrap_or_default()),
    }
}

/// The place of a byte.
fn span_at(text: &str, offset: usize) -> Span {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    Span {
        line: number(before.matches('\n').count() + 1),
        column: number(before[line_start..].chars().count() + 1),
        start: number(offset),
        end: number(offset + 1),
    }
}

/// Texts are at most 16 MiB, so nothing is cut.
fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
