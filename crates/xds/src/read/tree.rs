//! The tree of a YAML or JSON text: every node keeps its place and its spelling.

/// One node with its place in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// The whole path as the file writes it, where an old form was moved elsewhere.
    pub(crate) written: Option<Box<str>>,
    pub(crate) origin: Origin,
}

/// Whether the text of the file still says what a node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Source,
    /// From the file, but its entries or its value have changed.
    Touched,
    /// Made by the upgrade pass.
    Made,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A single value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Written in quotes or as a block, hence always a text.
    pub(crate) quoted: bool,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// The key as the file writes it, where an old form was renamed.
    pub(crate) written: Option<Box<str>>,
    pub(crate) span: Span,
    pub(crate) value: Node,
    /// Made by the upgrade pass: the file has no such key.
    pub(crate) made: bool,
}

/// A place: 1-based line and column (in characters), 0-based byte range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// What an unquoted scalar means to Envoy's YAML parser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    /// A whole number that fits 32 bits: larger ones and fractions are texts until a field says otherwise.
    Int(i64),
    Text,
}

impl Node {
    /// A node of the file.
    pub(crate) fn new(span: Span, kind: Kind) -> Self {
        Self { span, kind, written: None, origin: Origin::Source }
    }

    /// A node that the upgrade pass makes, at the place of the old form.
    pub(crate) fn made(span: Span, kind: Kind) -> Self {
        Self { origin: Origin::Made, ..Self::new(span, kind) }
    }

    /// A text that the upgrade pass makes.
    pub(crate) fn text(span: Span, text: impl Into<String>) -> Self {
        Self::made(span, Kind::Scalar(Scalar { text: text.into(), quoted: true }))
    }

    /// A number, a boolean or a name of an enum that the upgrade pass makes.
    pub(crate) fn plain(span: Span, text: impl Into<String>) -> Self {
        Self::made(span, Kind::Scalar(Scalar { text: text.into(), quoted: false }))
    }

    /// A mapping that the upgrade pass makes.
    pub(crate) fn map(span: Span, entries: Vec<Entry>) -> Self {
        Self::made(span, Kind::Map(entries))
    }

    /// A list that the upgrade pass makes.
    pub(crate) fn list(span: Span, items: Vec<Node>) -> Self {
        Self::made(span, Kind::List(items))
    }

    /// A mapping with one key that the upgrade pass makes.
    pub(crate) fn wrap(name: &str, value: Node) -> Self {
        Self::map(value.span, vec![Entry::new(name, value)])
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.plain() == Plain::Null)
    }

    /// The last entry of this name: the one that Envoy takes.
    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().rev().find(|entry| entry.name == name)
    }

    /// The text of the entry of this name, if it is a scalar.
    pub(crate) fn get_text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }
}

impl Entry {
    /// An entry that the upgrade pass makes, at the place of its value.
    pub(crate) fn new(name: &str, value: Node) -> Self {
        Self { name: name.to_owned(), written: None, span: value.span, value, made: true }
    }

    /// The key as the file writes it.
    pub(crate) fn spelling(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.name)
    }
}

impl Scalar {
    /// How Envoy's YAML parser reads this scalar.
    pub(crate) fn plain(&self) -> Plain {
        if self.quoted {
            return Plain::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
            _ => {}
        }
        if let Some(value) = word(&self.text) {
            return Plain::Bool(value);
        }
        match yaml_integer(&self.text) {
            Some(value) if i32::try_from(value).is_ok() => Plain::Int(value),
            _ => Plain::Text,
        }
    }

    /// The whole number that this scalar is: unquoted `010` is 8 (YAML 1.1's octal), in quotes 10 (protobuf's reading).
    pub(crate) fn integer(&self) -> Option<i64> {
        match self.plain() {
            Plain::Int(value) => Some(value),
            _ => integer(&self.text),
        }
    }
}

/// What YAML 1.1 calls a whole number: as [`integer`], but a leading zero makes it octal, and `08` is a text.
fn yaml_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.len() < 2 || !digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return integer(text);
    }
    let value = i64::from_str_radix(digits, 8).ok()?;
    Some(if text.starts_with('-') { -value } else { value })
}

/// A boolean word of YAML 1.1 in lower case, upper case or with a capital.
fn word(text: &str) -> Option<bool> {
    if text.len() > "false".len() {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let spelled = text == lower
        || text == text.to_ascii_uppercase()
        || (text.is_char_boundary(1)
            && text[1..] == lower[1..]
            && text.starts_with(|first: char| first.is_ascii_uppercase()));
    match lower.as_str() {
        "true" | "yes" | "on" | "y" if spelled => Some(true),
        "false" | "no" | "off" | "n" if spelled => Some(false),
        _ => None,
    }
}

/// A whole number: decimal or `0x` hexadecimal.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => i64::from_str_radix(hex, 16).ok()?,
        Some(_) => return None,
        None if digits.starts_with(|c: char| c.is_ascii_digit()) => digits.parse().ok()?,
        None => return None,
    };
    Some(if negative { -value } else { value })
}

/// Reading without a schema, for the rules on what the schema does not open.
impl Node {
    /// The value of a field, in either spelling.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        let Kind::Map(entries) = &self.kind else { return None };
        let same = |written: &str| written == name || super::positions::snake(written) == name;
        entries.iter().rev().find(|entry| same(&entry.name)).map(|entry| &entry.value)
    }

    /// The items of a list; a single value is a list of one.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Map(_) => std::slice::from_ref(self),
            Kind::Scalar(_) => &[],
        }
    }
}
