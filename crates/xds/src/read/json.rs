//! JSON to a tree, the short way: what is plain JSON needs no YAML parser.
//!
//! Whatever is not (a comment, a key without quotes, a mistake of any kind) is left to the YAML
//! parser, which reads it or says what is wrong. Pure.

use super::tree::{Entry, Kind, Node, Scalar, Span};

/// The tree of a text that is one JSON object and nothing else; at most so deep, and of at most so many values.
pub(super) fn parse(text: &str, max_depth: usize, max_nodes: usize) -> Option<Node> {
    let mut reader =
        Reader { text, bytes: text.as_bytes(), at: 0, line: 1, line_start: 0, wide: 0, nodes: max_nodes };
    reader.space();
    let root = (reader.bytes.get(reader.at) == Some(&b'{')).then(|| reader.value(max_depth)).flatten()?;
    reader.space();
    (reader.at == text.len()).then_some(root)
}

struct Reader<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    line: u32,
    line_start: usize,
    /// Bytes of this line that begin no character.
    wide: usize,
    /// How many more values may come.
    nodes: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    (self.line_start, self.wide) = (self.at, 0);
                }
                _ => return,
            }
        }
    }

    /// The place of what begins here.
    fn here(&self) -> Span {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let column = self.at - self.line_start - self.wide + 1;
        Span { line: self.line, column: number(column), start: number(self.at), end: number(self.at) }
    }

    fn end(&self, span: Span) -> Span {
        Span { end: u32::try_from(self.at).unwrap_or(u32::MAX), ..span }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        self.nodes = self.nodes.checked_sub(1)?;
        let span = self.here();
        match self.bytes.get(self.at)? {
            b'{' => self.object(span, depth.checked_sub(1)?),
            b'[' => self.array(span, depth.checked_sub(1)?),
            b'"' => {
                let text = self.string()?;
                Some(Node::new(self.end(span), Kind::Scalar(Scalar { text, quoted: true })))
            }
            _ => self.word(span),
        }
    }

    fn object(&mut self, span: Span, depth: usize) -> Option<Node> {
        self.at += 1;
        let mut entries = Vec::new();
        self.space();
        while self.bytes.get(self.at) != Some(&b'}') {
            if !entries.is_empty() {
                if !self.take(b',') {
                    return None;
                }
                self.space();
            }
            let key = self.here();
            let name = self.string()?;
            let key = self.end(key);
            self.space();
            if !self.take(b':') {
                return None;
            }
            self.space();
            let value = self.value(depth)?;
            entries.push(Entry { name, written: None, span: key, value, made: false });
            self.space();
        }
        // The place of a collection ends in front of its bracket.
        let span = self.end(span);
        self.at += 1;
        Some(Node::new(span, Kind::Map(entries)))
    }

    fn array(&mut self, span: Span, depth: usize) -> Option<Node> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        while self.bytes.get(self.at) != Some(&b']') {
            if !items.is_empty() {
                if !self.take(b',') {
                    return None;
                }
                self.space();
            }
            items.push(self.value(depth)?);
            self.space();
        }
        let span = self.end(span);
        self.at += 1;
        Some(Node::new(span, Kind::List(items)))
    }

    /// A number or a word of JSON.
    fn word(&mut self, span: Span) -> Option<Node> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'))?;
        let word = &rest[..end];
        let number = word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
        if !(number && word.parse::<f64>().is_ok() || matches!(word, "true" | "false" | "null")) {
            return None;
        }
        let text = word.to_owned();
        self.at += end;
        Some(Node::new(self.end(span), Kind::Scalar(Scalar { text, quoted: false })))
    }

    fn string(&mut self) -> Option<String> {
        if !self.take(b'"') {
            return None;
        }
        let mut text = String::new();
        loop {
            let start = self.at;
            let rest = &self.bytes[start..];
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
            self.at += end;
            // Both ends are ASCII, so that no character is cut.
            let piece = self.text.get(start..self.at)?;
            self.wide += piece.bytes().filter(|byte| byte & 0xC0 == 0x80).count();
            text.push_str(piece);
            match rest[end] {
                b'"' => {
                    self.at += 1;
                    return Some(text);
                }
                b'\\' => text.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let letter = *self.bytes.get(self.at + 1)?;
        self.at += 2;
        Some(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                // Halves of pairs are no characters: rare, and left to the other parser.
                let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                char::from_u32(u32::from_str_radix(digits, 16).ok().filter(|_| hex)?)?
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;

    /// Both ways lead to the same tree, places included.
    #[test]
    fn plain_json_is_read_as_the_yaml_parser_reads_it() {
        let files = ["everything.json", "json-sidecar.json", "old/camel-case.json", "old/v1-edge.json"];
        let path = |name| format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut texts = files.map(|name| std::fs::read_to_string(path(name)).unwrap()).to_vec();
        texts.push(
            "{\"ñ\\u00e9\\n\\/\": [\"ø\", 1, -2.5e3, true, null, {}, []], \"ß\": {\"b\": \"c\"}}\n"
                .to_owned(),
        );
        for text in texts {
            let short = super::parse(&text, 100, 100_000).unwrap_or_else(|| panic!("not read: {text}"));
            assert_eq!(short, yaml::by_yaml(&text).unwrap().unwrap());
        }
    }

    #[test]
    fn what_is_not_plain_json_is_left_alone() {
        for text in [
            "",
            "[]",
            "{",
            "{a: 1}",
            "{\"a\": b}",
            "{\"a\": 1,}",
            "{\"a\" 1}",
            "{\"a\": 01x}",
            "{\"a\": \"\n\"}",
            "{\"a\": 1} {}",
            "{\"a\": \"\\ud83d\\ude00\"}",
            "{\"a\": \"\\x\"}",
            "{\"a\": [1 2]}",
            "# a\n{}",
            "{\"a\": \"b}",
            "{\"a\": NaN}",
            "{\"a\": -}",
        ] {
            assert!(super::parse(text, 100, 100).is_none(), "{text}");
        }
        assert!(super::parse("{\"a\": [[[]]]}", 3, 100).is_none(), "too deep");
        assert!(super::parse("{\"a\": [1, 2, 3]}", 10, 4).is_none(), "too many");
    }
}
