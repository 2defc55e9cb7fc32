//! Tree to YAML: what has not changed is written as the file had it, with its comments.
//!
//! Blocks are written anew with an indentation of two; a collection on one line, a scalar and a key keep their text. Aliases are
//! written out.

use super::comments::Comments;
use super::tree::{Entry, Kind, Node, Origin, Plain, Scalar, Span};

/// Longest line with a changed collection on it.
const MAX_LINE: usize = 110;

/// The text of a file with this tree, which was read from this text and may have been changed since.
pub(crate) fn file(source: &str, root: &Node) -> String {
    let json = source.get(root.span.start as usize..).is_some_and(|rest| rest.starts_with('{'));
    let comments = Comments::read(source, root);
    let dashes = if json { 0 } else { dashes(source, root).unwrap_or(0) };
    let verbatim = !json && comments.plain_text;
    let mut writer = Writer { source, json, verbatim, dashes, comments, out: String::new() };
    match &root.kind {
        Kind::Map(entries) if !entries.is_empty() => writer.map(entries, 0, false),
        _ => {
            let text = writer.inline(root, 0).unwrap_or_default();
            writer.out.push_str(&text);
            writer.out.push('\n');
        }
    }
    let rest = writer.comments.rest();
    for line in rest {
        writer.out.push_str(&line);
        writer.out.push('\n');
    }
    writer.out
}

/// A piece of a file on one line.
#[cfg(test)]
pub(crate) fn one_line(source: &str, root: &Node) -> String {
    let comments = Comments::read(source, root);
    let writer = Writer { source, json: false, verbatim: true, dashes: 0, comments, out: String::new() };
    writer.flow(root).unwrap_or_default()
}

struct Writer<'s> {
    source: &'s str,
    json: bool,
    /// Whether collections on one line may be copied.
    verbatim: bool,
    /// How far the dashes of a list stand to the right of the list's key.
    dashes: usize,
    comments: Comments,
    out: String,
}

impl Writer<'_> {
    fn map(&mut self, entries: &[Entry], indent: usize, after_dash: bool) {
        for (index, entry) in entries.iter().enumerate() {
            let first = after_dash && index == 0;
            if !first {
                self.before(entry_place(entry), indent);
                self.indent(indent);
            }
            self.entry(entry, indent);
        }
    }

    fn entry(&mut self, entry: &Entry, indent: usize) {
        let key = self.key(entry);
        self.out.push_str(&key);
        self.out.push(':');
        let remark = entry_place(entry).and_then(|place| self.comments.beside(place));
        if let Some(text) = self.inline(&entry.value, indent + key.chars().count() + 2) {
            if !text.is_empty() {
                self.out.push(' ');
                self.out.push_str(&text);
            }
            return self.end(remark);
        }
        match &entry.value.kind {
            Kind::Scalar(scalar) => self.literal(scalar, indent, remark),
            Kind::Map(entries) => {
                self.end(remark);
                self.map(entries, indent + 2, false);
            }
            Kind::List(items) => {
                self.end(remark);
                self.list(items, indent + self.dashes);
            }
        }
    }

    fn list(&mut self, items: &[Node], indent: usize) {
        for item in items {
            self.before(item_place(item), indent);
            if let Kind::Map(entries) = &item.kind
                && let Some(first) = entries.first()
            {
                self.before(entry_place(first), indent);
            }
            self.indent(indent);
            self.out.push('-');
            if let Some(text) = self.inline(item, indent + 2) {
                self.out.push(' ');
                self.out.push_str(&text);
                let remark = item_place(item).and_then(|place| self.comments.beside(place));
                self.end(remark);
                continue;
            }
            match &item.kind {
                Kind::Scalar(scalar) => self.literal(scalar, indent, None),
                Kind::Map(entries) => {
                    self.out.push(' ');
                    self.map(entries, indent + 2, true);
                }
                Kind::List(items) => {
                    self.end(None);
                    self.list(items, indent + 2);
                }
            }
        }
    }

    /// A node on the rest of a line, if it is to stand there.
    fn inline(&self, node: &Node, column: usize) -> Option<String> {
        match &node.kind {
            Kind::Scalar(scalar) => self.scalar(node, scalar),
            Kind::List(items) if items.is_empty() => Some("[]".to_owned()),
            Kind::Map(entries) if entries.is_empty() => Some("{}".to_owned()),
            _ => {
                let text = self.one_line(node)?;
                if self.verbatim && unchanged(node) {
                    return Some(text.to_owned());
                }
                let small = matches!(&node.kind, Kind::List(items) if items.iter().all(is_scalar));
                let flow = self.flow(node).filter(|_| !self.json || small)?;
                (column + flow.chars().count() <= MAX_LINE).then_some(flow)
            }
        }
    }

    /// The text of a collection that the file has on one line.
    fn one_line(&self, node: &Node) -> Option<&str> {
        if node.origin == Origin::Made {
            return None;
        }
        let (start, end) = (node.span.start as usize, node.span.end as usize);
        let open = self.source.as_bytes().get(start)?;
        let close = match open {
            b'{' => b'}',
            b'[' => b']',
            _ => return None,
        };
        let end = if self.source.as_bytes().get(end) == Some(&close) { end + 1 } else { return None };
        self.source.get(start..end).filter(|text| !text.contains('\n'))
    }

    /// A collection in flow style; none where a text needs lines of its own.
    fn flow(&self, node: &Node) -> Option<String> {
        Some(match &node.kind {
            Kind::Scalar(scalar) => {
                let text = self.scalar(node, scalar)?;
                // What is plain in a block may not be so between braces.
                let safe = !text.contains([',', '[', ']', '{', '}']) || text.starts_with(['"', '\'']);
                if safe && !text.is_empty() { text } else { quote(&scalar.text) }
            }
            Kind::List(items) => {
                let items: Option<Vec<_>> = items.iter().map(|item| self.flow(item)).collect();
                format!("[{}]", items?.join(", "))
            }
            Kind::Map(entries) => {
                let entry =
                    |entry: &Entry| Some(format!("{}: {}", self.key(entry), self.flow(&entry.value)?));
                let entries: Option<Vec<_>> = entries.iter().map(entry).collect();
                format!("{{{}}}", entries?.join(", "))
            }
        })
    }

    fn scalar(&self, node: &Node, scalar: &Scalar) -> Option<String> {
        if node.origin == Origin::Source
            && !(self.json && scalar.quoted)
            && let Some(text) = self.raw(node.span)
        {
            return if text.starts_with(['|', '>']) { None } else { Some(text.to_owned()) };
        }
        if !scalar.quoted {
            return Some(scalar.text.clone());
        }
        let lines = scalar.text.trim_end_matches('\n').contains('\n');
        if lines && literal_is_exact(&scalar.text) { None } else { Some(words(&scalar.text)) }
    }

    /// The text of the file at a place, if it is on one line.
    fn raw(&self, span: Span) -> Option<&str> {
        let text = self.source.get(span.start as usize..span.end as usize)?.trim_end();
        (!text.contains('\n')).then_some(text)
    }

    fn key(&self, entry: &Entry) -> String {
        if entry.written.is_none()
            && !entry.made
            && !self.json
            && let Some(text) = self.raw(entry.span).filter(|text| !text.is_empty())
        {
            return text.to_owned();
        }
        words(&entry.name)
    }

    /// A text of several lines as a block.
    fn literal(&mut self, scalar: &Scalar, indent: usize, remark: Option<String>) {
        if !literal_is_exact(&scalar.text) {
            self.out.push(' ');
            let text = quote(&scalar.text);
            self.out.push_str(&text);
            return self.end(remark);
        }
        let text = scalar.text.trim_end_matches('\n');
        self.out.push_str(if text.len() == scalar.text.len() { " |-" } else { " |" });
        self.end(remark);
        for line in text.split('\n') {
            if !line.is_empty() {
                self.indent(indent + 2);
                self.out.push_str(line);
            }
            self.out.push('\n');
        }
    }

    /// The lines that stand before a node in the file.
    fn before(&mut self, place: Option<u32>, indent: usize) {
        let Some(place) = place else { return };
        for line in self.comments.above(place) {
            if !line.is_empty() {
                self.indent(if line.starts_with('#') { indent } else { 0 });
                self.out.push_str(&line);
            }
            self.out.push('\n');
        }
    }

    fn end(&mut self, remark: Option<String>) {
        if let Some(remark) = remark {
            self.out.push(' ');
            self.out.push_str(&remark);
        }
        self.out.push('\n');
    }

    fn indent(&mut self, columns: usize) {
        self.out.extend(std::iter::repeat_n(' ', columns));
    }
}

/// Where the file has the key of an entry.
pub(super) fn entry_place(entry: &Entry) -> Option<u32> {
    (!entry.made).then_some(entry.span.start)
}

/// Where the file has an item of a list.
pub(super) fn item_place(item: &Node) -> Option<u32> {
    (item.origin != Origin::Made).then_some(item.span.start)
}

fn is_scalar(node: &Node) -> bool {
    matches!(node.kind, Kind::Scalar(_))
}

/// Whether the text of the file still says what a node says.
fn unchanged(node: &Node) -> bool {
    node.origin == Origin::Source
        && match &node.kind {
            Kind::Scalar(_) => true,
            Kind::List(items) => items.iter().all(unchanged),
            Kind::Map(entries) => {
                entries.iter().all(|e| !e.made && e.written.is_none() && unchanged(&e.value))
            }
        }
}

/// How far the dashes of the file's first list stand to the right of its key.
fn dashes(source: &str, node: &Node) -> Option<usize> {
    match &node.kind {
        Kind::Scalar(_) => None,
        Kind::List(items) => items.iter().find_map(|item| dashes(source, item)),
        Kind::Map(entries) => entries.iter().find_map(|entry| {
            let (key, value) = (entry.span, &entry.value);
            let block = matches!(value.kind, Kind::List(_))
                && value.origin != Origin::Made
                && !entry.made
                && source.as_bytes().get(value.span.start as usize) == Some(&b'-');
            if block && value.span.line > key.line {
                return Some(if value.span.column > key.column { 2 } else { 0 });
            }
            dashes(source, value)
        }),
    }
}

/// A text as a person would write it: in quotes only where it would mean something else without.
fn words(text: &str) -> String {
    let plain = Scalar { text: text.to_owned(), quoted: false };
    let name = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        || text.starts_with('/') && text.len() > 1;
    let duration = text.starts_with(|c: char| c.is_ascii_digit())
        && text.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok());
    let address = text.parse::<std::net::Ipv4Addr>().is_ok();
    let safe = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    let meant = plain.plain() == Plain::Text && !text.eq_ignore_ascii_case("nan");
    if (name || duration || address) && safe && meant { text.to_owned() } else { quote(text) }
}

/// A text in double quotes.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a text is the same as a literal block: no odd white space at its ends or in front of its first line.
fn literal_is_exact(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    !body.is_empty()
        && !body.starts_with([' ', '\n', '\t'])
        && !body.ends_with(['\n', ' ', '\t'])
        && !body.contains(|c: char| {
            c.is_control() && c != '\n' && c != '\t'
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{85}' | '\u{feff}')
        })
}
