//! Every old form, one a line of `tests/data/old-forms.txt`: what it becomes is printed into docs/upgrading.md, and compared.

use super::{assert_committed, data};
use crate::read::fragment;

const BEGIN: &str =
    "<!-- The tables are printed by a test; `UPDATE=1 cargo test -p xds` writes them anew. -->\n";

/// What a line of the list becomes, as the file's text and as the rows of the page.
fn tables() -> String {
    let mut page = String::new();
    for line in data("old-forms.txt").lines() {
        if let Some(title) = line.strip_prefix("# ") {
            page += &format!("\n### {title}\n\n| in | form of 2018 | today's |\n| --- | --- | --- |\n");
            continue;
        }
        let (shape, old) = line.split_once(" | ").unwrap();
        let (new, notices) = fragment(shape, old);
        assert!(notices > 0, "no notice for {line}");
        let (again, notices) = fragment(shape, &new);
        assert_eq!((again.as_str(), notices), (new.as_str(), 0), "{line} changes twice");
        let cell = |text: &str| format!("`{}`", text.replace('|', "\\|"));
        page += &format!("| {} | {} | {} |\n", place(shape), cell(old), cell(&new));
    }
    page
}

/// What a person calls the place of a form.
fn place(shape: &str) -> String {
    let mut words = String::new();
    for c in shape.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[test]
fn the_tables_of_old_forms_are_what_the_code_does() {
    let path = format!("{}/../../docs/upgrading.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, _) = page.split_once(BEGIN).unwrap();
    assert_committed(&path, &format!("{before}{BEGIN}{}", tables()));
}
