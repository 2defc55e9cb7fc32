//! Path normalisation: what `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action` ask for (RFC 3986, 6.2.2).
//!
//! Pure.

use super::{EscapedSlashes, PathOptions};
use crate::message::grammar::{escape, map_escapes, split_query};
use crate::message::work;

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Normalized {
    Unchanged,
    Changed(Vec<u8>),
    /// Redirect the client to this path (307).
    Redirect(Vec<u8>),
    /// The path is refused (400).
    Reject,
}

/// Normalises a request's path; its query stays as it is.
pub(crate) fn normalize(path: &[u8], options: PathOptions) -> Normalized {
    let (only, query) = path.split_at(split_query(path).0.len());
    if only.first() != Some(&b'/') {
        return Normalized::Unchanged;
    }
    let mut out = only.to_vec();
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(&out) {
        match options.escaped_slashes {
            EscapedSlashes::Reject => return Normalized::Reject,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::Keep => {}
        }
        out = unescape_slashes(&out);
    }
    if options.normalize {
        match remove_dots(&unescape_unreserved(&out)) {
            Some(clean) => out = clean,
            None => return Normalized::Reject,
        }
    }
    if options.merge_slashes {
        out.dedup_by(|next, before| *next == b'/' && *before == b'/');
    }
    if out == only {
        return Normalized::Unchanged;
    }
    out.extend_from_slice(query);
    if redirect { Normalized::Redirect(out) } else { Normalized::Changed(out) }
}

/// Whether `%2F` or `%5C` occurs.
fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(3).any(is_escaped_slash)
}

fn is_escaped_slash(three: &[u8]) -> bool {
    three.eq_ignore_ascii_case(b"%2f") || three.eq_ignore_ascii_case(b"%5c")
}

fn unescape_slashes(path: &[u8]) -> Vec<u8> {
    map_escapes(path, |three| {
        is_escaped_slash(three).then_some(if three.get(1) == Some(&b'2') { b'/' } else { b'\\' })
    })
}

/// Decodes escapes of characters that need none, and writes the others in capitals.
fn unescape_unreserved(path: &[u8]) -> Vec<u8> {
    let decoded = map_escapes(path, |three| {
        let byte = escape(three)?;
        (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)).then_some(byte)
    });
    decoded.into_iter().map(|byte| if byte == b'\\' { b'/' } else { byte }).collect()
}

/// Removes `.` and `..` segments; `None` when `..` leads above the root.
fn remove_dots(path: &[u8]) -> Option<Vec<u8>> {
    work::step(path.len());
    let mut segments: Vec<&[u8]> = Vec::new();
    let count = path.split(|&byte| byte == b'/').count();
    for (at, segment) in path.split(|&byte| byte == b'/').enumerate().skip(1) {
        let last = at + 1 == count;
        match segment {
            b"." if last => segments.push(b""),
            b"." => {}
            b".." => {
                segments.pop()?;
                if last {
                    segments.push(b"");
                }
            }
            other => segments.push(other),
        }
    }
    let mut out = vec![b'/'];
    out.extend(segments.join(&b'/'));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, options: PathOptions, want: &str) {
        let got = match normalize(path.as_bytes(), options) {
            Normalized::Unchanged => path.to_owned(),
            Normalized::Changed(path) => String::from_utf8(path).unwrap(),
            Normalized::Redirect(path) => format!("redirect {}", String::from_utf8(path).unwrap()),
            Normalized::Reject => "reject".to_owned(),
        };
        assert_eq!(got, want, "{path}");
    }

    #[test]
    fn dots_and_escapes_are_resolved_and_the_query_is_left_alone() {
        let options =
            PathOptions { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
        check("/a/./b/../c?x=/../", options, "/a/c?x=/../");
        check("/a/..", options, "/");
        check("/%61/%2e%2e/b", options, "/b");
        check("/a%2Fb", options, "/a%2Fb");
        check("/../a", options, "reject");
        check("/a//b", options, "/a//b");
    }

    #[test]
    fn slashes_are_merged_unescaped_or_refused_as_asked() {
        let merge =
            PathOptions { normalize: false, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };
        check("//a///b?c//d", merge, "/a/b?c//d");
        let with = |escaped_slashes| PathOptions { escaped_slashes, ..PathOptions::default() };
        check("/a%2fb%5Cc", with(EscapedSlashes::UnescapeAndForward), "/a/b\\c");
        check("/a%2Fb?q", with(EscapedSlashes::UnescapeAndRedirect), "redirect /a/b?q");
        check("/a%2Fb", with(EscapedSlashes::Reject), "reject");
    }
}
