//! Regular expressions in RE2's syntax, which Envoy has, for the `regex` crate, which matches in linear time as well.
//!
//! The syntaxes differ in three places: RE2's `\d`, `\w` and `\s` are ASCII; inside `[...]`, RE2 knows neither nested classes nor set
//! operations; a substitution writes groups as `\1`. Part of `matcher`; called by `snapshot::build`.

use regex::bytes::{Regex, RegexBuilder};

use super::Rewrite;

/// An expression that must match a whole text. The error says what is wrong with it.
pub fn full(pattern: &str) -> Result<Regex, String> {
    compile(&format!(r"\A(?:{})\z", translate(pattern)), pattern)
}

/// An expression that may match any part of a text.
pub fn part(pattern: &str) -> Result<Regex, String> {
    compile(&translate(pattern), pattern)
}

/// An expression with RE2's substitution (`\0` to `\9`, `\\`).
pub fn rewrite(pattern: &str, substitution: &str) -> Result<Rewrite, String> {
    let pattern = part(pattern)?;
    let mut ours = Vec::with_capacity(substitution.len());
    let mut rest = substitution.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'$' => ours.extend_from_slice(b"$$"),
            b'\\' => match rest.next() {
                Some(b'\\') => ours.push(b'\\'),
                Some(digit @ b'0'..=b'9') => {
                    if usize::from(digit - b'0') >= pattern.captures_len() {
                        let group = char::from(digit);
                        return Err(format!(
                            "the substitution asks for group {group}, the expression has {} groups",
                            pattern.captures_len() - 1
                        ));
                    }
                    ours.extend_from_slice(&[b'$', b'{', digit, b'}']);
                }
                _ => return Err(r"in a substitution `\` is followed by a digit or by `\`".to_owned()),
            },
            other => ours.push(other),
        }
    }
    Ok(Rewrite { pattern, substitution: ours.into() })
}

fn compile(translated: &str, original: &str) -> Result<Regex, String> {
    // ASCII classes first; an expression that names Unicode classes compiles only with them.
    let ascii = RegexBuilder::new(translated).unicode(false).build();
    ascii.or_else(|_| Regex::new(translated)).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
        format!("`{original}` is not a regular expression: {}", reason.unwrap_or(&text))
    })
}

/// Escapes what RE2 takes literally inside `[...]` and the `regex` crate does not.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                out.push(char);
                out.extend(chars.next());
            }
            '[' if !class => {
                class = true;
                out.push(char);
                if let Some(not) = chars.next_if_eq(&'^') {
                    out.push(not);
                }
                // A bracket in the first place is itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str(r"\]");
                }
            }
            '[' if chars.peek() == Some(&':') => {
                // A named class such as `[:alpha:]` goes up to its own bracket.
                out.push(char);
                for inner in chars.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            '[' => out.push_str(r"\["),
            '&' | '~' if class => out.extend(['\\', char]),
            ']' => {
                class = false;
                out.push(char);
            }
            _ => out.push(char),
        }
    }
    out
}
