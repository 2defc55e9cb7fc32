//! The page of diagnostics, printed from the codes, so that it cannot drift from them.

use std::fmt::Write;

use super::Code;

const HEAD: &str = "# Diagnostics

Printed from `crates/xds/src/diagnostic/code.rs`; do not edit (`UPDATE=1 cargo test -p xds` writes
it anew). `petmesh config explain CODE` prints the same. An error refuses the file, a warning does
not.
";

/// The whole page, in Markdown.
pub fn diagnostics_page() -> String {
    let mut page = HEAD.to_owned();
    for (title, warning) in [("Errors", false), ("Warnings", true)] {
        let _ = writeln!(page, "\n## {title}");
        for code in Code::ALL.iter().filter(|code| code.is_warning() == warning) {
            let (name, about, text) = (code.as_str(), code.about(), code.explanation());
            let _ = writeln!(page, "\n### {name}\n\n{}", wrapped(&format!("{about} {text}")));
        }
    }
    page
}

/// A paragraph in lines of at most this many columns, where its words allow it.
const COLUMNS: usize = 100;

fn wrapped(paragraph: &str) -> String {
    let (mut lines, mut column) = (String::new(), 0);
    for word in paragraph.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > COLUMNS {
            lines.push('\n');
            column = 0;
        } else if column > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += width;
    }
    lines
}
