//! Just enough of Rust's grammar to tell code from comments, literals and tests, and to read paths.

/// The code alone: comments and the inside of literals become blanks; lines stay where they are.
#[must_use]
pub fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut last = ' ';
    while let Some(first) = rest.chars().next() {
        let word_before = last.is_alphanumeric() || last == '_';
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !word_before => prefixed_literal(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (taken, blank) = if length == 0 { (first.len_utf8(), false) } else { (length, true) };
        for c in rest[..taken].chars() {
            out.push(if blank && c != '\n' { ' ' } else { c });
        }
        last = first;
        rest = &rest[taken..];
    }
    out
}

/// [`code`] without the items under `#[cfg(test)]`.
#[must_use]
pub fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut from = 0;
    for (start, end) in test_items(code) {
        out.push_str(&code[from..start]);
        out.extend(code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }));
        from = end;
    }
    out + &code[from..]
}

/// How many lines the longest `#[cfg(test)] mod … { … }` of a file has. Takes [`code`].
#[must_use]
pub fn in_file_tests(code: &str) -> usize {
    let items = test_items(code).into_iter().map(|(start, end)| &code[start..end]);
    let modules = items.filter(|item| item.split('{').next().is_some_and(|head| head.contains("mod ")));
    modules.map(|module| module.lines().count()).max().unwrap_or(0)
}

/// Each path that starts with `{root}::` as (line, first segment after it); a group `{root}::{a::b, c}` is one for each
/// member. Takes [`code`].
#[must_use]
pub fn paths_below(code: &str, root: &str) -> Vec<(usize, String)> {
    let prefix = format!("{root}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let members = if rest.starts_with('{') { group(rest) } else { vec![rest] };
        found.extend(members.into_iter().map(|member| (line, identifier(member))));
    }
    found
}

/// Byte ranges of `#[cfg(test)]` with the item that follows, in order, none inside another.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = item_end(code, start + "#[cfg(test)]".len());
        items.push((start, end));
        from = end;
    }
    items
}

/// After the `;` or the closing brace of the item that starts at `from`.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0usize;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return from + at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The members of `{a, b::{c, d}}`, each from its first character on.
fn group(text: &str) -> Vec<&str> {
    let mut members = Vec::new();
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if (c == '{' || c == ',') && depth == 1 {
            members.push(text[at + 1..].trim_start());
        }
        if depth == 0 {
            break;
        }
    }
    members.retain(|member| !member.starts_with('}'));
    members
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`, `b'…'`; 0 when it is an ordinary word.
fn prefixed_literal(text: &str) -> usize {
    let letters = text.len() - text.trim_start_matches(['r', 'b', 'c']).len();
    let after = &text[letters..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let quoted = &after[hashes..];
    let start = letters + hashes;
    if quoted.starts_with('"') && text[..letters].contains('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        let body = &quoted[1..];
        return body.find(&close).map_or(text.len(), |at| start + 1 + at + close.len());
    }
    match quoted.chars().next() {
        Some('"') if hashes == 0 => start + string(quoted),
        Some('\'') if hashes == 0 => start + character(quoted).max(1),
        _ => 0,
    }
}

/// A character literal; 0 when the quote begins a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text.get(3..).and_then(|rest| rest.find('\'')).map_or(text.len(), |at| 3 + at + 1),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let source =
            "a // crate::x\n/* b /* c */ d */ e \"f \\\" g\" h r#\"i \" j\"# k 'l' '\\'' m<'n> br\"o\" bar\n";
        let code = code(source);
        let words: Vec<_> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "e", "h", "k", "m<'n>", "bar"]);
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn test_items_are_left_out() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { {} }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
        let rest = without_tests(code);
        assert_eq!(rest.split_whitespace().collect::<String>(), "fna(){}fnc(){}fne(){}");
        assert_eq!(rest.lines().count(), code.lines().count());
        assert_eq!(in_file_tests(code), 4);
    }

    #[test]
    fn paths_are_read_singly_and_in_groups() {
        let code = "use crate::route::Table;\nuse crate::{\n  http1, stats::{self, Counter},\n};\nlet x = crate::time::now();\n\
                    $crate::no; my_crate::no; pub(crate) fn y() {}";
        let found = paths_below(code, "crate");
        let found: Vec<_> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
        assert_eq!(found, [(1, "route"), (2, "http1"), (2, "stats"), (5, "time")]);
    }
}
