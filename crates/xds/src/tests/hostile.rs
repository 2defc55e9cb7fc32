//! Input made to hurt: one clear error, bounded memory, no panic.

use super::data;
use crate::{Code, read_bootstrap};

fn code(text: &str) -> Code {
    let findings = read_bootstrap("hostile.yaml", text).unwrap_err();
    findings.iter().find(|finding| finding.is_error()).unwrap().code
}

#[test]
fn every_prefix_of_a_file_gets_an_answer() {
    for name in ["petstore-sidecar.yaml", "json-sidecar.json"] {
        let text = data(name);
        for (end, _) in text.char_indices().step_by(7) {
            let _ = crate::read_bootstrap(name, &text[..end]).map_err(|findings| {
                assert!(!findings.is_empty());
                crate::render_text(&findings, &text[..end])
            });
        }
    }
}

#[test]
fn every_scalar_replaced_by_poison_gets_an_answer() {
    let text = data("pet-sidecar.yaml");
    let long = "x".repeat(1 << 20);
    for poison in ["null", "\"\"", "-1", "18446744073709551616", "NaN", ".nan", "[]", "{}", long.as_str()] {
        for line in 0..text.lines().count() {
            let poisoned = |(n, l): (usize, &str)| match l.split_once(": ") {
                Some((key, _)) if n == line => format!("{key}: {poison}\n"),
                _ => format!("{l}\n"),
            };
            let changed: String = text.lines().enumerate().map(poisoned).collect();
            let rendered =
                read_bootstrap("pet-sidecar.yaml", &changed).map_err(|f| crate::render_text(&f, &changed));
            assert!(rendered.err().is_none_or(|text| text.len() < 20_000), "{poison:.20} at {line}");
        }
    }
}

#[test]
fn nesting_and_aliases_are_bounded() {
    assert_eq!(code(&"[".repeat(10_000)), Code::Syntax);
    assert_eq!(code(&format!("{}{}", "{a: ".repeat(90), "}".repeat(90))), Code::UnknownField);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{before}]\n");
    }
    assert_eq!(code(&bomb), Code::Limit);
    let mut tower = format!("a0: &a0 {}{}\n", "[".repeat(60), "]".repeat(60));
    tower += &format!("a1: {}*a0{}\n", "[".repeat(60), "]".repeat(60));
    assert_eq!(code(&tower), Code::Limit);
    assert_eq!(code("a: &a [*a]"), Code::Syntax);
    assert_eq!(code("? [a]\n: b"), Code::Syntax);
}

#[test]
fn what_is_no_configuration_is_said_to_be_none() {
    assert_eq!(code(""), Code::Empty);
    assert_eq!(code("# nothing\n"), Code::Empty);
    assert_eq!(code("\u{0}\u{1}\u{7f}ELF"), Code::Syntax);
    assert_eq!(code("just words"), Code::WrongType);
    assert_eq!(code("- a\n- b"), Code::WrongType);
    assert_eq!(code("admin: {}\n---\nadmin: {}\n"), Code::Syntax);
    assert!(read_bootstrap("envoy.yaml", "admin: {}\n---\n").is_ok());
    assert_eq!(code("{} junk"), Code::Syntax);
    assert_eq!(code("&a node: {}\n*a : {}"), Code::Syntax);
    assert_eq!(code("a: b\n\tc: d"), Code::Syntax);
}

#[test]
fn deep_free_data_is_refused_and_not_lost() {
    let deep = format!("{}1{}", "{a: ".repeat(80), "}".repeat(80));
    let text = format!("node: {{id: a, cluster: b, metadata: {deep}}}");
    assert!(matches!(read_bootstrap("deep.yaml", &text), Err(findings) if findings[0].code == Code::Limit));
}
