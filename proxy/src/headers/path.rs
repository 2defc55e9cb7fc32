//! Path normalisation: what `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action`
//! ask for (RFC 3986, 6.2.2), in Envoy's order and with its results.
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
    /// The path is refused (400), as this is what became of it.
    Reject(Vec<u8>),
}

/// Normalises a request's path; its query stays as it is.
pub(crate) fn normalize(path: &[u8], options: PathOptions) -> Normalized {
    let (only, query) = path.split_at(split_query(path).0.len());
    if only.first() != Some(&b'/') {
        return Normalized::Unchanged;
    }
    let mut out = only.to_vec();
    let mut redirect = false;
    let whole = |path: Vec<u8>| [&*path, query].concat();
    if options.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(&out) {
        out = unescape_slashes(&out);
        match options.escaped_slashes {
            EscapedSlashes::Reject => return Normalized::Reject(whole(out)),
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::Keep => {}
        }
    }
    if options.normalize {
        match canonical(&out) {
            Some(clean) => out = clean,
            None => return Normalized::Reject(whole(out)),
        }
    }
    if options.merge_slashes {
        merge_slashes(&mut out);
    }
    if out == only {
        return Normalized::Unchanged;
    }
    if redirect { Normalized::Redirect(whole(out)) } else { Normalized::Changed(whole(out)) }
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

/// Leaves one of several slashes in a row. A path of several slashes alone keeps two, as in Envoy.
fn merge_slashes(path: &mut Vec<u8>) {
    let before = path.len();
    path.dedup_by(|next, before| *next == b'/' && *before == b'/');
    if path == b"/" && before > 1 {
        path.push(b'/');
    }
}

/// Whether a path may hold this byte as itself, so that its escape is decoded.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Whether this byte is escaped where it stands as itself.
fn is_escaped(byte: u8) -> bool {
    !byte.is_ascii_graphic() || b"\"#<>?^`{|}".contains(&byte)
}

/// The length of a dot at the beginning, which may be escaped; 0 for anything else.
fn dot(text: &[u8]) -> usize {
    match text {
        [b'.', ..] => 1,
        [b'%', b'2', b'e' | b'E', ..] => 3,
        _ => 0,
    }
}

/// What is left behind a whole segment, with its slash; `None` where the segment goes on.
fn segment_end(text: &[u8]) -> Option<&[u8]> {
    match text {
        [] => Some(text),
        [b'/' | b'\\', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Resolves `.` and `..` segments (none leads above the root), turns backslashes, decodes what needs
/// no escape and escapes what needs one; `None` for a path with a NUL.
fn canonical(path: &[u8]) -> Option<Vec<u8>> {
    work::step(path.len());
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        let one = dot(rest);
        if one > 0 {
            rest = rest.get(one..).unwrap_or_default();
            let is_segment = out.last() == Some(&b'/');
            let behind_two = rest.get(dot(rest)..).filter(|_| dot(rest) > 0).and_then(segment_end);
            if let Some(behind) = segment_end(rest).filter(|_| is_segment) {
                rest = behind;
            } else if let Some(behind) = behind_two.filter(|_| is_segment) {
                rest = behind;
                leave_segment(&mut out);
            } else {
                out.push(b'.');
            }
            continue;
        }
        let (byte, used) = match escape(rest) {
            Some(0) => return None,
            Some(byte) if is_unreserved(byte) => (byte, 3),
            Some(_) => {
                out.extend_from_slice(rest.get(..3).unwrap_or_default());
                rest = rest.get(3..).unwrap_or_default();
                continue;
            }
            None => (first, 1),
        };
        match byte {
            0 => return None,
            b'\\' => out.push(b'/'),
            byte if is_escaped(byte) => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            byte => out.push(byte),
        }
        rest = if used == 1 { tail } else { rest.get(used..).unwrap_or_default() };
    }
    Some(out)
}

/// Takes the last segment off a path that ends with a slash.
fn leave_segment(path: &mut Vec<u8>) {
    if path.len() > 1 {
        path.pop();
        let slash = memchr::memrchr(b'/', path).unwrap_or(0);
        path.truncate(slash + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, options: PathOptions, want: &str) {
        let got = match normalize(path.as_bytes(), options) {
            Normalized::Unchanged => path.to_owned(),
            Normalized::Changed(path) => String::from_utf8(path).unwrap(),
            Normalized::Redirect(path) => format!("redirect {}", String::from_utf8(path).unwrap()),
            Normalized::Reject(path) => format!("reject {}", String::from_utf8(path).unwrap()),
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
        check("/../a", options, "/a");
        check("/a%00?b", options, "reject /a%00?b");
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
        check("/a%2Fb", with(EscapedSlashes::Reject), "reject /a/b");
    }
}
