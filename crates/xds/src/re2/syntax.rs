//! RE2's syntax, as Envoy uses it (bytes, not characters), for the `regex` crate; or why RE2 refuses an expression.
//!
//! Everything that the two read differently is written out: escapes, classes, octal numbers,
//! literal braces. Pure.

/// RE2's largest count in a repetition, nested ones multiplied.
const MAX_REPEAT: u32 = 1000;

/// What comes before a repetition.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// Something, with the product of the counts in it.
    Atom(u32),
    Repetition,
}

/// The expression for the `regex` crate without Unicode, its groups capturing or not.
pub(super) fn translate(pattern: &str, captures: bool) -> Result<String, String> {
    let bytes = pattern.as_bytes();
    let mut reader = Reader {
        bytes,
        at: 0,
        out: String::with_capacity(pattern.len() + 8),
        last_class_end: bytes.windows(2).rposition(|pair| pair == b":]"),
    };
    // For each open group: the largest product of counts in it so far.
    let mut open: Vec<u32> = vec![1];
    let mut before = Before::Nothing;
    while let Some(byte) = reader.next() {
        before = match byte {
            b'(' => {
                if reader.group(captures)? {
                    open.push(1);
                    Before::Nothing
                } else {
                    before
                }
            }
            b')' => {
                let inner = open.pop().filter(|_| !open.is_empty()).ok_or("a `)` has no `(`")?;
                reader.out.push(')');
                raise(&mut open, inner);
                Before::Atom(inner)
            }
            b'|' => {
                reader.out.push('|');
                Before::Nothing
            }
            b'*' | b'+' | b'?' => {
                repeated(before, char::from(byte))?;
                reader.out.push(char::from(byte));
                reader.lazy();
                Before::Repetition
            }
            b'{' => reader.braces(before, &mut open)?,
            b'[' => {
                reader.class()?;
                Before::Atom(1)
            }
            b'\\' => {
                reader.escape()?;
                Before::Atom(1)
            }
            b'^' | b'$' | b'.' => {
                reader.out.push(char::from(byte));
                Before::Atom(1)
            }
            literal => {
                reader.byte(literal);
                Before::Atom(1)
            }
        };
    }
    if open.len() > 1 { Err("a `(` has no `)`".to_owned()) } else { Ok(reader.out) }
}

fn raise(open: &mut [u32], product: u32) {
    if let Some(outer) = open.last_mut() {
        *outer = product.max(*outer);
    }
}

/// The product of the counts in what is repeated.
fn repeated(before: Before, operator: char) -> Result<u32, String> {
    match before {
        Before::Atom(product) => Ok(product),
        Before::Nothing => {
            Err(format!("nothing stands in front of `{operator}`: write `\\{operator}` for the character"))
        }
        Before::Repetition => {
            Err(format!("`{operator}` repeats a repetition: put a group around what is repeated"))
        }
    }
}

/// An expression, how far it has been read, and what has been written of it.
pub(super) struct Reader<'p> {
    pub(super) bytes: &'p [u8],
    pub(super) at: usize,
    pub(super) out: String,
    /// Where the last `:]` is, so that a `[:` without one needs no search.
    pub(super) last_class_end: Option<usize>,
}

impl Reader<'_> {
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    pub(super) fn take(&mut self, text: &str) -> bool {
        let there = self.bytes[self.at..].starts_with(text.as_bytes());
        self.at += if there { text.len() } else { 0 };
        there
    }

    /// A byte that means itself.
    fn byte(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'/' | b'_' => self.out.push(char::from(byte)),
            _ => self.out.push_str(&format!("\\x{byte:02X}")),
        }
    }

    fn lazy(&mut self) {
        if self.peek() == Some(b'?') {
            self.at += 1;
            self.out.push('?');
        }
    }

    /// The beginning of a group, or flags for the rest of the one around (false).
    fn group(&mut self, captures: bool) -> Result<bool, String> {
        let plain = if captures { "(" } else { "(?:" };
        if self.peek() != Some(b'?') {
            self.out.push_str(plain);
            return Ok(true);
        }
        let start = self.at - 1;
        self.at += 1;
        let unknown = |at: usize| {
            let text = String::from_utf8_lossy(&self.bytes[start..self.bytes.len().min(at + 1)]).into_owned();
            format!(
                "`{text}` is not known to RE2, which has no look-around, no comments and no atomic groups"
            )
        };
        if self.bytes[self.at..].starts_with(b"P<") || self.bytes[self.at..].starts_with(b"<") {
            let name = self.at + 1 + usize::from(self.bytes[self.at] == b'P');
            let length = self.bytes[name..].iter().position(|byte| *byte == b'>');
            let named = length.filter(|length| {
                *length > 0
                    && self.bytes[name..name + length].iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
            });
            self.at = name + named.ok_or_else(|| unknown(name))? + 1;
            self.out.push_str(plain);
            return Ok(true);
        }
        let flags = self.at;
        loop {
            match self.next() {
                Some(b'i' | b'm' | b's' | b'U' | b'-') => {}
                Some(end @ (b')' | b':')) => {
                    let text = String::from_utf8_lossy(&self.bytes[flags..self.at]).into_owned();
                    if text.len() > 1 || end == b':' {
                        self.out.push_str(&format!("(?{text}"));
                    }
                    return Ok(end == b':');
                }
                _ => return Err(unknown(self.at.saturating_sub(1))),
            }
        }
    }

    /// A counted repetition, or a brace that means itself.
    fn braces(&mut self, before: Before, open: &mut [u32]) -> Result<Before, String> {
        let Some((text, count)) = self.counts() else {
            self.out.push_str("\\{");
            return Ok(Before::Atom(1));
        };
        let inner = repeated(before, '{')?;
        let product = count.unwrap_or(u32::MAX).saturating_mul(inner);
        if product > MAX_REPEAT {
            return Err(format!("`{text}` repeats more than {MAX_REPEAT} times: use `*` or `+`"));
        }
        self.out.push_str(&text);
        self.lazy();
        raise(open, product);
        Ok(Before::Repetition)
    }

    /// `{n}`, `{n,}` or `{n,m}`, and the largest count in it; `None` inside is one that is too large or the wrong way round.
    fn counts(&mut self) -> Option<(String, Option<u32>)> {
        let rest = &self.bytes[self.at..];
        // Nothing else is looked at: a search for the `}` of every brace would be quadratic.
        let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b',')?;
        let text = std::str::from_utf8(&rest[..end]).ok().filter(|_| rest[end] == b'}')?;
        let (low, high) = text.split_once(',').map_or((text, None), |(low, high)| (low, Some(high)));
        if low.is_empty() || high.is_some_and(|high| high.contains(',')) {
            return None;
        }
        self.at += end + 1;
        let low: Option<u32> = low.parse().ok();
        let high = high.filter(|high| !high.is_empty()).map_or(low, |high| high.parse().ok());
        Some((format!("{{{text}}}"), low.zip(high).filter(|(low, high)| low <= high).map(|(_, high)| high)))
    }

    /// What follows a backslash outside a class.
    fn escape(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(known @ (b'b' | b'B' | b'A' | b'z')) => {
                self.at += 1;
                self.out.push('\\');
                self.out.push(char::from(known));
            }
            Some(b'C') => {
                self.at += 1;
                self.out.push_str("(?s:.)");
            }
            Some(b'Q') => {
                self.at += 1;
                while !self.take("\\E") {
                    let Some(byte) = self.next() else { break };
                    self.byte(byte);
                }
            }
            _ => match self.named_class()? {
                Some(class) => self.out.push_str(&format!("[{class}]")),
                None => {
                    let byte = self.escaped_byte()?;
                    self.byte(byte);
                }
            },
        }
        Ok(())
    }

    /// One byte behind a backslash.
    pub(super) fn escaped_byte(&mut self) -> Result<u8, String> {
        let start = self.at;
        let byte = self.next().ok_or("a `\\` stands at the end: write `\\\\` for the character")?;
        let octal = |byte: Option<u8>| {
            byte.filter(|byte| matches!(byte, b'0'..=b'7')).map(|byte| u32::from(byte - b'0'))
        };
        let code = match byte {
            b'a' => Some(7),
            b'f' => Some(12),
            b'n' => Some(10),
            b'r' => Some(13),
            b't' => Some(9),
            b'v' => Some(11),
            // A single digit would be a back-reference.
            b'1'..=b'7' if octal(self.peek()).is_none() => None,
            b'0'..=b'7' => {
                let mut code = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    self.at += 1;
                    code = code * 8 + digit;
                }
                Some(code)
            }
            b'x' => self.hexadecimal(),
            byte if byte.is_ascii_punctuation() || byte.is_ascii() && !byte.is_ascii_alphanumeric() => {
                Some(byte.into())
            }
            _ => None,
        };
        let shown = || String::from_utf8_lossy(&self.bytes[start..self.at.max(start + 1)]).into_owned();
        code.and_then(|code| u8::try_from(code).ok()).ok_or_else(|| {
            format!(
                "`\\{}` is not an escape of RE2, which has no back-references and takes bytes up to `\\xFF`",
                shown()
            )
        })
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let rest = &self.bytes[self.at..];
        let digits = match rest.first()? {
            b'{' => {
                let end = rest.iter().position(|byte| *byte == b'}')?;
                self.at += end + 1;
                &rest[1..end]
            }
            _ => {
                self.at += rest.len().min(2);
                rest.get(..2)?
            }
        };
        let text =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(text, 16).ok()
    }
}
