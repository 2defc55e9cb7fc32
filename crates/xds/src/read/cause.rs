//! Why a text is no YAML: a parser names the place where it gave up, which may be lines below.
//!
//! A light scan of the lines, linear in the text. It knows quotes, brackets, comments, block scalars and indentation, and
//! calls the first thing out of order the cause.

/// Where something is wrong (bytes), and what.
pub(super) struct Cause {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) message: &'static str,
    pub(super) remedy: &'static str,
}

/// A line with content, outside quotes, brackets and block scalars.
struct Line {
    start: usize,
    end: usize,
    /// Columns of the dashes and of the text behind them: the levels that begin here.
    columns: Vec<usize>,
    /// Where its text begins, behind dashes.
    text: usize,
}

#[derive(Default)]
struct Scan {
    lines: Vec<Line>,
    /// A tab in the white space before the text of a line.
    tab: Option<usize>,
    /// The first quoted text that does not end where it should.
    quote: Option<usize>,
    /// Brackets that are open at the end of the scan.
    open: Vec<usize>,
}

/// The first line that is indented with a tab.
pub(super) fn tab(text: &str) -> Option<Cause> {
    text.contains('\t').then(|| scan(text, text.len()).tab).flatten().map(tab_at)
}

/// What made the parser give up at this byte.
pub(super) fn of(text: &str, at: usize) -> Option<Cause> {
    let at = text.floor_char_boundary(at);
    let line_end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    // The parser looks a line ahead at most.
    let next_end = text.get(line_end + 1..).and_then(|rest| rest.find('\n')).map(|end| line_end + 1 + end);
    if let Some(tab) = scan(text, next_end.unwrap_or(text.len())).tab {
        return Some(tab_at(tab));
    }
    let found = scan(text, at);
    if let Some(start) = found.quote {
        return Some(Cause {
            start,
            end: start + 1,
            message: "this quote is not closed where its text ends",
            remedy: "add the closing quote",
        });
    }
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    if let Some(start) = found.open.iter().copied().find(|open| *open < line_start && goes_on(text, *open)) {
        return Some(Cause {
            start,
            end: start + 1,
            message: "this bracket is not closed on its line",
            remedy: "add the closing bracket",
        });
    }
    if !found.open.is_empty() {
        return None;
    }
    let found = scan(text, text.len());
    let here = found.lines.iter().rposition(|line| line.start <= at)?;
    layout(text, &found.lines, here)
}

fn tab_at(start: usize) -> Cause {
    Cause { start, end: start + 1, message: "a tab cannot indent a line", remedy: "indent with spaces" }
}

/// Whether the line of a bracket has more behind it.
fn goes_on(text: &str, open: usize) -> bool {
    let rest = text[open + 1..].lines().next().unwrap_or_default().trim_start();
    !rest.is_empty() && !rest.starts_with('#')
}

/// What is wrong with the lines around the one at which the parser gave up.
fn layout(text: &str, lines: &[Line], here: usize) -> Option<Cause> {
    let line = &lines[here];
    let column = *line.columns.first()?;
    let before = lines.get(here.checked_sub(1)?)?;
    let whole = |line: &Line, message, remedy| Cause { start: line.text, end: line.end, message, remedy };
    let content = text.get(before.text..before.end)?;
    let own = *before.columns.last()?;
    if column >= own && !has_key(content) {
        return Some(whole(before, "this line has no `:` behind its key", "write `key: value`"));
    }
    let remedy = "give the keys of one level the same indentation";
    if column > own && !content.ends_with(':') {
        // A value cannot have lines below it: either this line is too deep, or the one before not deep enough.
        if siblings(lines, here - 1, own) == 1 && is_odd(lines, here, own) {
            return Some(whole(before, "this line is indented less than the lines of its level", remedy));
        }
        return Some(whole(line, "this line is indented more than the lines of its level", remedy));
    }
    let message = "this line is indented unlike the lines of its level";
    let level = open_levels(lines, here).into_iter().find(|(_, open)| *open >= column);
    let (first, level) = level?;
    if level > column {
        let alone = siblings(lines, first, level) == 1 && is_odd(lines, here, level);
        return Some(whole(if alone { &lines[first] } else { line }, message, remedy));
    }
    // A key where a list goes on with a dash: the key of the list is not on its level.
    let key = lines.get(first.checked_sub(1)?)?;
    let list = lines[first].columns.len() > 1 && line.columns.len() == 1;
    let owner = *key.columns.last()?;
    (list && owner < column && owner % 2 == 1).then(|| whole(key, message, remedy))
}

/// Whether the level of other lines is the odd one, and not that of this line: by the lines that follow, else by the
/// number of spaces.
fn is_odd(lines: &[Line], here: usize, other: usize) -> bool {
    let Some(column) = lines[here].columns.first().copied() else { return false };
    let least = column.min(other);
    let following = lines[here + 1..].iter().filter_map(|line| line.columns.first().copied());
    for next in following.take_while(|next| *next >= least) {
        if next == column || next == other {
            return next == column;
        }
    }
    other % 2 == 1
}

/// Whether a line has a key: a colon at its end, or before white space.
fn has_key(content: &str) -> bool {
    content.ends_with(':') || content.contains(": ") || content.contains(":\t")
}

/// The levels that are open before a line: where each began, and its column.
fn open_levels(lines: &[Line], here: usize) -> Vec<(usize, usize)> {
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (at, line) in lines[..here].iter().enumerate() {
        for column in &line.columns {
            while open.last().is_some_and(|(_, last)| last > column) {
                open.pop();
            }
            if open.last().is_none_or(|(_, last)| last != column) {
                open.push((at, *column));
            }
        }
    }
    open
}

/// How many lines before and after a line are of its level.
fn siblings(lines: &[Line], at: usize, column: usize) -> usize {
    let inside = |line: &&Line| line.columns.first().is_some_and(|first| *first >= column);
    let level = |line: &&Line| line.columns.first() == Some(&column);
    let begins = lines[at].columns.first() != Some(&column);
    let before = lines[..at].iter().rev().take_while(|line| !begins && inside(line));
    let before = before.filter(level).count();
    let after = lines[at + 1..].iter().take_while(inside).filter(level).count();
    // A dash begins the level that it is in front of.
    let dash = !begins
        && lines[..at]
            .iter()
            .rev()
            .find(|line| line.columns.first().is_some_and(|first| *first < column))
            .is_some_and(|line| line.columns.last() == Some(&column));
    before + after + 1 + usize::from(dash)
}

/// Reads the text up to `end`, or to the first quote out of order.
fn scan(text: &str, end: usize) -> Scan {
    let mut scan = Scan::default();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < end {
        at = line(text, bytes, at, end, &mut scan);
        if scan.quote.is_some() {
            break;
        }
    }
    scan
}

/// One line and what begins on it; returns where the next one begins.
fn line(text: &str, bytes: &[u8], start: usize, end: usize, scan: &mut Scan) -> usize {
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let content = &text[start..line_end];
    let indent = content.len() - content.trim_start_matches([' ', '\t']).len();
    let rest = content[indent..].trim_end();
    let outside = scan.open.is_empty();
    if rest.is_empty() || rest.starts_with('#') || outside && matches!(rest, "---" | "...") {
        return line_end + 1;
    }
    let mut at = start + indent;
    if outside {
        if scan.tab.is_none() {
            scan.tab = content[..indent].find('\t').map(|tab| start + tab);
        }
        let mut columns = vec![indent];
        while bytes[at] == b'-' && matches!(bytes.get(at + 1), Some(b' ')) {
            let behind = text[at + 1..line_end].trim_start_matches(' ');
            at = line_end - behind.len();
            columns.push(at - start);
            if behind.is_empty() {
                return line_end + 1;
            }
        }
        scan.lines.push(Line { start, end: start + indent + rest.len(), columns, text: at });
    }
    // Whether a value or a key may begin here.
    let mut fresh = true;
    while at < line_end.min(end.max(start)) {
        let space_before = at == 0 || matches!(bytes[at - 1], b' ' | b'\t' | b'\n');
        match bytes[at] {
            b'#' if space_before => break,
            quote @ (b'"' | b'\'') if fresh => {
                let close = closing(bytes, at + 1, quote);
                let junk = close.and_then(|close| bytes.get(close + 1)).is_some_and(|next| {
                    !matches!(next, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b']' | b'}')
                });
                match close {
                    Some(close) if !junk && close < end => {
                        at = close;
                        fresh = false;
                        if close > line_end {
                            return after(text, close, end, scan);
                        }
                    }
                    // What is wrong is inside this text.
                    Some(close) if !junk && close < line_end => return end,
                    _ => {
                        scan.quote = Some(at);
                        return end;
                    }
                }
            }
            b'{' | b'[' if fresh || !scan.open.is_empty() => {
                scan.open.push(at);
                fresh = true;
            }
            b'}' | b']' => {
                scan.open.pop();
                fresh = false;
            }
            b',' if !scan.open.is_empty() => fresh = true,
            b':' if matches!(bytes.get(at + 1), None | Some(b' ' | b'\t' | b'\r' | b'\n')) => fresh = true,
            b':' if !scan.open.is_empty() => fresh = matches!(bytes.get(at + 1), Some(b'"' | b'\'')),
            b'|' | b'>' if fresh && scan.open.is_empty() => return block(text, line_end, indent),
            b'&' | b'!' if fresh => {
                let word = text[at..line_end].find(' ').unwrap_or(line_end - at);
                at += word;
                continue;
            }
            b' ' | b'\t' => {}
            _ => fresh = false,
        }
        at += 1;
    }
    line_end + 1
}

/// Goes on behind a quoted text that spans lines.
fn after(text: &str, close: usize, end: usize, scan: &mut Scan) -> usize {
    let line_end = text[close..].find('\n').map_or(text.len(), |at| close + at);
    for (at, c) in text[close + 1..line_end.min(end.max(close + 1))].char_indices() {
        match c {
            '{' | '[' => scan.open.push(close + 1 + at),
            '}' | ']' => drop(scan.open.pop()),
            _ => {}
        }
    }
    line_end + 1
}

/// The end of a block scalar: its lines are indented more than the line that begins it.
fn block(text: &str, line_end: usize, indent: usize) -> usize {
    let mut at = line_end + 1;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let line = rest.split('\n').next().unwrap_or_default();
        let own = line.len() - line.trim_start_matches(' ').len();
        if !line.trim().is_empty() && own <= indent {
            return at;
        }
        at += line.len() + 1;
    }
    at
}

/// Where a quoted text ends.
fn closing(bytes: &[u8], from: usize, quote: u8) -> Option<usize> {
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'\\' && quote == b'"' {
            at += 1;
        } else if *byte == quote {
            if quote == b'"' || bytes.get(at + 1) != Some(&quote) {
                return Some(at);
            }
            at += 1;
        }
        at += 1;
    }
    None
}
