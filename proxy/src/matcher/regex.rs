//! Regular expressions as Envoy has them: RE2's syntax and limits, compiled by the `regex` crate, which matches in linear time as well.
//!
//! `re2` writes an expression out for that crate, or says why RE2 refuses it; `size` counts the instructions of RE2's program. A
//! substitution writes groups as `\1`.

mod class;
mod re2;
mod size;

use regex::bytes::{Regex, RegexBuilder};

use super::Rewrite;

/// Most instructions of RE2's program, Envoy's default.
pub const MAX_PROGRAM: u32 = 100;

/// An expression that must match a whole text, of at most so many instructions. The error says what is wrong with it.
pub fn full(pattern: &str, most: u32) -> Result<Regex, String> {
    check(pattern, most)?;
    // Groups are not asked for: without them the program is smaller.
    compile(&format!(r"\A(?:{})\z", re2::translate(pattern, false)?), pattern)
}

/// An expression that may match any part of a string.
pub fn part(pattern: &str, most: u32) -> Result<Regex, String> {
    compile(&check(pattern, most)?, pattern)
}

/// An expression with RE2's substitution (`\0` to `\9`, `\\`).
pub fn rewrite(pattern: Regex, substitution: &str) -> Result<Rewrite, String> {
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

/// The expression for the `regex` crate, if RE2 takes it and Envoy takes RE2's program.
fn check(pattern: &str, most: u32) -> Result<String, String> {
    let wrong = |problem: String| format!("`{pattern}` is not a regular expression: {problem}");
    let translated = re2::translate(pattern, true).map_err(wrong)?;
    let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    let parsed = parser.parse(&translated).map_err(|error| wrong(reason(&error.to_string())))?;
    match size::instructions(&parsed) {
        Some(size) if size <= most as usize => Ok(translated),
        size => {
            let size = size.map_or("very many".to_owned(), |size| size.to_string());
            Err(format!(
                "`{pattern}` is too large: RE2 makes {size} instructions of it, and at most {most} are allowed; split it into several \
                 matchers, or raise the runtime value `re2.max_program_size.error_level`"
            ))
        }
    }
}

fn compile(translated: &str, original: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(translated).unicode(false).build();
    built.map_err(|error| format!("`{original}` is not a regular expression: {}", reason(&error.to_string())))
}

/// What the library says, without the drawing.
fn reason(text: &str) -> String {
    text.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or(text).to_owned()
}
