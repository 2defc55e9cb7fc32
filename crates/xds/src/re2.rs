//! Regular expressions as Envoy has them: RE2's syntax and limits.
//!
//! `syntax` writes an expression out for the `regex` crate, or says why RE2 refuses it; `size` counts the
//! instructions of RE2's program.

mod class;
mod size;
mod syntax;
#[cfg(test)]
mod tests;

/// Envoy's default for the largest program, in instructions.
pub const MAX_PROGRAM: u32 = 100;

/// An expression that may match any part of a text, for the `regex` crate without Unicode. The error says why Envoy
/// refuses it: RE2 does not read it, or its program has more than `most` instructions.
pub fn part(pattern: &str, most: u32) -> Result<String, String> {
    let wrong = |problem: String| format!("`{pattern}` is not a regular expression: {problem}");
    let translated = syntax::translate(pattern, true).map_err(wrong)?;
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

/// The same for an expression that must match a whole text.
pub fn full(pattern: &str, most: u32) -> Result<String, String> {
    part(pattern, most)?;
    // Groups are not asked for: without them the program is smaller.
    Ok(format!(r"\A(?:{})\z", syntax::translate(pattern, false)?))
}

/// What the library says, without the drawing.
fn reason(text: &str) -> String {
    text.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or(text).to_owned()
}
