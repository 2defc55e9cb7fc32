//! Diagnostics for people, in rustc's manner, and for programs, as JSON.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::{Diagnostic, Severity};

/// Longest line that is shown whole, in bytes; of a longer one only the surroundings.
const MAX_LINE: usize = 160;

/// All diagnostics, each with its line and a caret, without colours. `text` is the text that was read.
pub fn render_text(diagnostics: &[Diagnostic], text: &str) -> String {
    let rendered: Vec<String> = diagnostics.iter().map(|diagnostic| one(diagnostic, text)).collect();
    let mut all = rendered.join("\n\n");
    if !all.is_empty() {
        all.push('\n');
    }
    all
}

/// All diagnostics as one JSON array.
pub fn render_json(diagnostics: &[Diagnostic]) -> String {
    serde_json::to_string_pretty(diagnostics).unwrap_or_else(|_| "[]".to_owned())
}

fn one(diagnostic: &Diagnostic, text: &str) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = visible(&diagnostic.message);
    let title = level.primary_title(message.as_str()).id(diagnostic.code.as_str());
    let excerpt = diagnostic.bytes.and_then(|bytes| Excerpt::new(text, diagnostic.line?, bytes));
    let label = diagnostic.expected.as_ref().map(|e| format!("expected {}", visible(e))).unwrap_or_default();
    let mut group = match &excerpt {
        Some(excerpt) => {
            let annotation = AnnotationKind::Primary.span(excerpt.start..excerpt.end);
            let annotation = if label.is_empty() { annotation } else { annotation.label(label.as_str()) };
            let snippet = Snippet::source(excerpt.line.as_str()).line_start(excerpt.number);
            title.element(snippet.path(diagnostic.file.as_str()).annotation(annotation))
        }
        None => title.element(annotate_snippets::Origin::path(diagnostic.file.as_str())),
    };
    if excerpt.is_none() && !label.is_empty() {
        group = group.element(Level::NOTE.message(label.as_str()));
    }
    if let Some(path) = &diagnostic.path {
        group = group.element(Level::NOTE.message(format!("at {}", visible(path))));
    }
    if let Some(suggestion) = &diagnostic.suggestion {
        group = group.element(Level::HELP.message(visible(suggestion)));
    }
    Renderer::plain().render(&[group])
}

/// The line of a finding, cut to what a terminal shows.
struct Excerpt {
    line: String,
    number: usize,
    start: usize,
    end: usize,
}

impl Excerpt {
    fn new(text: &str, line: u32, (start, end): (usize, usize)) -> Option<Self> {
        let before = text.get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let from = boundary(text, line_start.max(start.saturating_sub(MAX_LINE)));
        let to = boundary(text, line_end.min(start + MAX_LINE));
        let mut end = end.clamp(start, to);
        if end == start {
            end = text[start..to].chars().next().map_or(start, |first| start + first.len_utf8());
        }
        let line_text = text[from..to].trim_end_matches('\r').to_owned();
        let end = (end - from).min(line_text.len());
        Some(Self { number: line as usize, start: (start - from).min(end), end, line: line_text })
    }
}

/// The nearest character boundary at or before a byte.
fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Without control characters, and not endless.
fn visible(text: &str) -> String {
    let cut = boundary(text, text.len().min(1000));
    let mut shown: String =
        text[..cut].chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
    if cut < text.len() {
        shown.push('…');
    }
    shown
}
