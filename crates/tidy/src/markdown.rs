//! Just enough of Markdown to find links, code spans and sections.

/// Link targets as (line, target): `[text](target)` and `[label]: target`, outside of code.
#[must_use]
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let outside: String = line.split('`').step_by(2).collect();
        for (at, _) in outside.match_indices("](") {
            let target = outside[at + 2..].split([')', ' ']).next().unwrap_or_default();
            found.push((number, target.trim_matches(['<', '>']).to_owned()));
        }
        if let Some((label, target)) = outside.split_once("]: ")
            && label.starts_with('[')
        {
            found.push((number, target.split(' ').next().unwrap_or_default().to_owned()));
        }
    }
    found
}

/// Code spans as (line, code), outside of code blocks.
#[must_use]
pub fn code_spans(text: &str) -> Vec<(usize, String)> {
    let spans = |(number, line): (usize, &str)| {
        line.split('`').skip(1).step_by(2).map(move |span| (number, span.to_owned())).collect::<Vec<_>>()
    };
    prose(text).into_iter().flat_map(spans).collect()
}

/// Headings as (line, level, title).
#[must_use]
pub fn headings(text: &str) -> Vec<(usize, usize, String)> {
    let heading = |(number, line): (usize, &str)| {
        let title = line.trim_start_matches('#');
        let level = line.len() - title.len();
        (level > 0 && title.starts_with(' ')).then(|| (number, level, title.trim().to_owned()))
    };
    prose(text).into_iter().filter_map(heading).collect()
}

/// The text under the first heading with this title (in any case), up to the next heading of the same or a higher level.
#[must_use]
pub fn section(text: &str, title: &str) -> Option<String> {
    let headings = headings(text);
    let at = headings.iter().position(|(_, _, found)| found.eq_ignore_ascii_case(title))?;
    let (start, level, _) = headings[at];
    let next = headings[at + 1..].iter().find(|(_, other, _)| *other <= level);
    let end = next.map_or(usize::MAX, |(line, ..)| line - 1);
    Some(text.lines().take(end).skip(start).collect::<Vec<_>>().join("\n"))
}

/// The lines that are not in a fenced code block, numbered from 1.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((index + 1, line));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n[a](b.md#c), [d](<e f>) and `[no](no.md)`\n```\n[no](no.md) `no`\n# no\n```\n## Reading order\n\
                        `x.rs`, `y.rs`\n### Deeper\n`z.rs`\n## After\n[g]: h.md \"title\"\n";

    #[test]
    fn links_outside_of_code() {
        let found = links(PAGE);
        let targets: Vec<_> = found.iter().map(|(line, target)| (*line, target.as_str())).collect();
        assert_eq!(targets, [(2, "b.md#c"), (2, "e"), (12, "h.md")]);
    }

    #[test]
    fn a_section_ends_at_the_next_heading_of_its_level() {
        let section = section(PAGE, "reading order").unwrap_or_default();
        let spans: Vec<_> = code_spans(&section).into_iter().map(|(_, span)| span).collect();
        assert_eq!(spans, ["x.rs", "y.rs", "z.rs"]);
    }
}
