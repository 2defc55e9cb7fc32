//! Classes of characters in RE2's syntax: `[…]`, `\d`, `[:alpha:]`, `\pL`.
//!
//! Pure.

use regex_syntax::hir::{Class, HirKind};

use super::syntax::Reader;

const POSIX: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

impl Reader<'_> {
    /// `\d` and similar, `\pL`, `\p{Lu}`: what is between the brackets.
    pub(super) fn named_class(&mut self) -> Result<Option<String>, String> {
        let class = match self.peek() {
            Some(known @ (b'd' | b'D' | b'w' | b'W')) => format!("\\{}", char::from(known)),
            // Without the vertical tab.
            Some(b's') => "\\t\\n\\f\\r\\x20".to_owned(),
            Some(b'S') => "[^\\t\\n\\f\\r\\x20]".to_owned(),
            Some(sign @ (b'p' | b'P')) => {
                self.at += 1;
                return self.unicode_class(sign == b'P').map(Some);
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(class))
    }

    /// A category or a script, as far as it has characters of one byte.
    fn unicode_class(&mut self, negated: bool) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let (name, length) = match rest.first() {
            Some(b'{') => {
                let end = rest.iter().position(|byte| *byte == b'}').ok_or("a `\\p{` has no `}`")?;
                (&rest[1..end], end + 1)
            }
            Some(_) => (&rest[..1], 1),
            None => return Err("`\\p` names no class".to_owned()),
        };
        let name = String::from_utf8_lossy(name).into_owned();
        self.at += length;
        let (name, other) = name.strip_prefix('^').map_or((name.as_str(), false), |name| (name, true));
        let unknown = || {
            format!(
                "`\\p{{{name}}}` is not a class of RE2, which knows categories (`Lu`) and scripts (`Greek`)"
            )
        };
        // A category has one or two letters; properties, which RE2 does not have, are no scripts.
        let script = format!("\\p{{{}{name}}}", if name.len() > 2 && name != "Any" { "Script=" } else { "" });
        if !name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') {
            return Err(unknown());
        }
        let class = regex_syntax::parse(&script).map_err(|_| unknown())?;
        let mut set = [false; 256];
        match class.kind() {
            HirKind::Class(Class::Unicode(class)) => {
                for range in class.ranges() {
                    (range.start() as usize..=range.end() as usize)
                        .take_while(|c| *c < 256)
                        .for_each(|c| set[c] = true);
                }
            }
            HirKind::Class(Class::Bytes(_)) | HirKind::Empty => {}
            _ => return Err(unknown()),
        }
        Ok(ranges(&set.map(|inside| inside != (negated != other))))
    }

    /// A class, from behind its bracket.
    pub(super) fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        let mut first = true;
        while first || self.peek() != Some(b']') {
            if self.take("[:") {
                let rest = &self.bytes[self.at..];
                let there = self.last_class_end.filter(|end| *end >= self.at);
                if let Some(end) = there.and_then(|_| rest.windows(2).position(|pair| pair == b":]")) {
                    let name = String::from_utf8_lossy(&rest[..end]).into_owned();
                    if !POSIX.contains(&name.trim_start_matches('^')) {
                        return Err(format!("`[:{name}:]` is not a class of RE2"));
                    }
                    self.out.push_str(&format!("[:{name}:]"));
                    self.at += end + 2;
                    first = false;
                    continue;
                }
                self.at -= 2;
            }
            first = false;
            if self.peek() == Some(b'\\') {
                self.at += 1;
                if let Some(class) = self.named_class()? {
                    self.out.push_str(&class);
                    continue;
                }
                self.at -= 1;
            }
            let low = self.class_byte()?;
            let range =
                self.peek() == Some(b'-') && self.bytes.get(self.at + 1).is_some_and(|next| *next != b']');
            let high = if range {
                self.at += 1;
                self.class_byte()?
            } else {
                low
            };
            if high < low {
                let (low, high) = (char::from(low), char::from(high));
                return Err(format!("the range `{low}-{high}` has its ends the wrong way round"));
            }
            self.out.push_str(&format!("\\x{low:02X}-\\x{high:02X}"));
        }
        self.at += 1;
        self.out.push(']');
        Ok(())
    }

    fn class_byte(&mut self) -> Result<u8, String> {
        match self.next() {
            Some(b'\\') => self.escaped_byte(),
            Some(byte) => Ok(byte),
            None => Err("a `[` has no `]`".to_owned()),
        }
    }
}

/// A set as what is between brackets.
fn ranges(set: &[bool; 256]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < 256 {
        let end = (at..256).take_while(|c| set[*c]).last();
        if let Some(end) = end {
            out.push_str(&format!("\\x{at:02X}-\\x{end:02X}"));
        }
        at = end.unwrap_or(at) + 1;
    }
    if out.is_empty() { "[a&&b]".to_owned() } else { out }
}
