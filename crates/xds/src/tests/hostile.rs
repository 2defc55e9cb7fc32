//! Input made to hurt: one clear error, bounded memory, no panic.

use super::data;
use crate::read::tree::{Kind, Node};
use crate::{Code, Diagnostic, read_bootstrap};

fn code(text: &str) -> Code {
    let findings = read_bootstrap("hostile.yaml", text).unwrap_err();
    findings.iter().find(|finding| finding.is_error()).unwrap().code
}

/// One clear answer: accepted, or refused with errors that have a text and a place, of bounded size.
fn answer(name: &str, text: &str) -> bool {
    let Err(findings) = read_bootstrap(name, text) else { return true };
    assert!(findings.iter().any(Diagnostic::is_error), "{name}: refused without an error");
    for finding in &findings {
        assert!(!finding.message.is_empty(), "{finding:?}");
        assert!(finding.line.is_some() || matches!(finding.code, Code::Empty | Code::Limit), "{finding:?}");
    }
    let rendered = crate::render_text(&findings, text);
    assert!(rendered.len() < 20_000 && rendered.contains("error["), "{} bytes", rendered.len());
    false
}

#[test]
fn every_prefix_of_a_file_gets_an_answer() {
    for (name, step) in [
        ("pet-sidecar.yaml", 1),
        ("petstore-sidecar.yaml", 3),
        ("json-sidecar.json", 1),
        ("everything.yaml", 101),
    ] {
        let text = data(name);
        let accepted =
            text.char_indices().step_by(step).filter(|(end, _)| answer(name, &text[..*end])).count();
        // JSON is whole only before the newline at its end; YAML at the end of most lines.
        assert!(accepted <= 1 || !name.ends_with("json"), "{name}: {accepted}");
    }
}

/// The byte ranges of all values below a node that are neither mapping nor list.
fn scalars(node: &Node, found: &mut Vec<std::ops::Range<usize>>) {
    match &node.kind {
        Kind::Scalar(_) => found.push(node.span.start as usize..node.span.end as usize),
        Kind::List(items) => items.iter().for_each(|item| scalars(item, found)),
        Kind::Map(entries) => entries.iter().for_each(|entry| scalars(&entry.value, found)),
    }
}

#[test]
fn every_scalar_replaced_by_poison_gets_an_answer() {
    let long = "x".repeat(1 << 20);
    let poisons =
        ["null", "\"\"", "-1", "18446744073709551616", "NaN", ".nan", "[]", "{}", "010", long.as_str()];
    for (name, all) in [("pet-sidecar.yaml", true), ("json-sidecar.json", false), ("everything.yaml", false)]
    {
        let text = data(name);
        let (mut places, mut refused) = (Vec::new(), 0);
        scalars(&crate::read::yaml::parse(name, &text).unwrap().unwrap(), &mut places);
        assert!(places.len() > 15, "{name}: {}", places.len());
        for (at, place) in places.into_iter().enumerate() {
            // A large file gets another poison at each place, and a megabyte not every place.
            let every = |poison: &str| all && (poison.len() < 100 || at % 4 == 0);
            let chosen = poisons.iter().enumerate();
            let chosen = chosen.filter(|(number, poison)| every(poison) || at % poisons.len() == *number);
            for (_, poison) in chosen {
                let mut changed = text.clone();
                changed.replace_range(place.clone(), poison);
                refused += usize::from(!answer(name, &changed));
            }
        }
        assert!(refused > 5, "{name}: {refused}");
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
    for (open, close) in [("{a: ", "}"), ("[", "]"), ("- ", ""), ("? ", "")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        assert!(matches!(code(&deep), Code::Limit | Code::Syntax), "{open}");
    }
    let deep: String = (0..10_000).map(|level| format!("{:level$}a:\n", "")).take(2_000).collect();
    assert!(matches!(code(&deep), Code::Limit | Code::Syntax));
    assert_eq!(code(&format!("a: {}", "x\n ".repeat(6 << 20))), Code::Limit);
    assert_eq!(code("? [a]\n: b"), Code::Syntax);
}

#[test]
fn what_is_no_configuration_is_said_to_be_none() {
    assert_eq!(code(""), Code::Empty);
    assert_eq!(code("# nothing\n"), Code::Empty);
    assert_eq!(code("\u{0}\u{1}\u{7f}ELF"), Code::Syntax);
    assert_eq!(code("just words"), Code::WrongType);
    assert_eq!(code("- a\n- b"), Code::WrongType);
    let two = read_bootstrap("envoy.yaml", "admin: {}\n---\nadmin: {}\n").unwrap();
    assert_eq!(
        two.warnings.iter().map(|found| (found.code, found.line)).collect::<Vec<_>>(),
        [(Code::SecondDocument, Some(3))]
    );
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
