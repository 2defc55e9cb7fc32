//! Formats that make a JSON object: `json_format` of access logs and local replies.
//!
//! A value that is one operator keeps its type (numbers without quotes, missing ones `null`); keys come sorted, as Envoy prints them.

use super::{Context, Format, Problem};

/// A parsed `json_format`. Its value is one line with a line feed at its end.
#[derive(Clone, Debug)]
pub(crate) struct JsonFormat {
    root: Node,
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Node {
    /// JSON text that is the same each time.
    Constant(Box<str>),
    Value(Format),
    List(Vec<Node>),
    /// Keys as JSON text with their colon, in order.
    Object(Vec<(Box<str>, Node)>),
}

impl JsonFormat {
    /// The format of a `json_format` struct. With `omit_empty` (`omit_empty_values`), keys without a value are left out.
    pub(crate) fn parse(root: &serde_json::Value, omit_empty: bool) -> Result<Self, Problem> {
        let node = node(root, omit_empty, &mut String::new())?;
        Ok(Self { root: node, omit_empty })
    }

    /// Appends the line.
    pub(crate) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) {
        if !self.root.write(context, self.omit_empty, out) {
            out.extend_from_slice(b"{}");
        }
        out.push(b'\n');
    }
}

fn node(value: &serde_json::Value, omit_empty: bool, path: &mut String) -> Result<Node, Problem> {
    match value {
        serde_json::Value::String(text) => {
            let format = Format::parse(text).map_err(|problem| problem.and(&format!(", at key `{path}`")))?;
            let format = if omit_empty { format.omit_empty() } else { format };
            let literal = format.pieces.iter().all(|piece| matches!(piece, super::Piece::Text(_)));
            if !literal {
                return Ok(Node::Value(format));
            }
            let mut fixed = Vec::new();
            format.pieces.iter().for_each(|piece| {
                if let super::Piece::Text(text) = piece {
                    fixed.extend_from_slice(text);
                }
            });
            let mut out = Vec::new();
            write_string(&fixed, &mut out);
            Ok(Node::Constant(String::from_utf8_lossy(&out).into()))
        }
        serde_json::Value::Array(items) => {
            let items = items.iter().map(|item| node(item, omit_empty, path)).collect::<Result<_, _>>()?;
            Ok(Node::List(items))
        }
        serde_json::Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by(|left, right| left.0.cmp(right.0));
            let mut made = Vec::with_capacity(sorted.len());
            for (key, value) in sorted {
                let before = path.len();
                if before > 0 {
                    path.push('.');
                }
                path.push_str(key);
                made.push((
                    format!("{}:", serde_json::Value::from(key.as_str())).into(),
                    node(value, omit_empty, path)?,
                ));
                path.truncate(before);
            }
            Ok(Node::Object(made))
        }
        serde_json::Value::Number(number) => Ok(Node::Constant(show_number(number).into())),
        other => Ok(Node::Constant(other.to_string().into())),
    }
}

/// Protobuf knows doubles only: 5.0 is 5.
fn show_number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        _ => number.to_string(),
    }
}

impl Node {
    /// Appends the JSON text; false, and nothing appended, when it is to be left out.
    fn write(&self, context: &Context<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Constant(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
            Self::Value(format) => write_value(format, context, omit_empty, out),
            Self::List(items) => {
                write_all(items, (b'[', b']'), out, |item, out| item.write(context, omit_empty, out))
            }
            Self::Object(entries) => {
                let start = out.len();
                let some = write_all(entries, (b'{', b'}'), out, |(key, value), out| {
                    let start = out.len();
                    out.extend_from_slice(key.as_bytes());
                    let written = value.write(context, omit_empty, out);
                    if !written {
                        out.truncate(start);
                    }
                    written
                });
                let keep = some || !omit_empty;
                if !keep {
                    out.truncate(start);
                }
                keep
            }
        }
    }
}

/// Writes a list with its brackets; whether any item was written.
fn write_all<T>(
    items: impl IntoIterator<Item = T>,
    (open, close): (u8, u8),
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Vec<u8>) -> bool,
) -> bool {
    out.push(open);
    let mut some = false;
    for item in items {
        let before = out.len();
        if some {
            out.push(b',');
        }
        if write(item, out) {
            some = true;
        } else {
            out.truncate(before);
        }
    }
    out.push(close);
    some
}

fn write_value(format: &Format, context: &Context<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
    let Some(operator) = format.single() else {
        let text = format.bytes(context);
        write_string(&text, out);
        return true;
    };
    if operator.is_number() {
        return operator.write(context, out) || write_missing(omit_empty, out);
    }
    if let Some(value) = operator.structured(context) {
        write_json(value, out);
        return true;
    }
    let mut text = Vec::new();
    if !operator.write(context, &mut text) {
        return write_missing(omit_empty, out);
    }
    write_string(&text, out);
    true
}

fn write_missing(omit_empty: bool, out: &mut Vec<u8>) -> bool {
    if !omit_empty {
        out.extend_from_slice(b"null");
    }
    !omit_empty
}

/// A value of metadata, whose numbers are those of protobuf.
pub(super) fn write_json(value: &serde_json::Value, out: &mut Vec<u8>) {
    match value {
        serde_json::Value::Number(number) => out.extend_from_slice(show_number(number).as_bytes()),
        serde_json::Value::String(text) => write_string(text.as_bytes(), out),
        serde_json::Value::Array(items) => {
            write_all(items, (b'[', b']'), out, |item, out| {
                write_json(item, out);
                true
            });
        }
        serde_json::Value::Object(entries) => {
            write_all(entries, (b'{', b'}'), out, |(key, value), out| {
                write_string(key.as_bytes(), out);
                out.push(b':');
                write_json(value, out);
                true
            });
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

/// A JSON string; bytes that are not UTF-8 become U+FFFD.
fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            write_byte(byte, out);
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn write_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0..=0x1f | 0x7f => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
        _ => out.push(byte),
    }
}
