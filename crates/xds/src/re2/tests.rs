//! What Envoy takes and what it matches; programs of the size that RE2 says.

use regex::bytes::{Regex, RegexBuilder};

/// As the proxy compiles it.
fn full(pattern: &str, most: u32) -> Result<Regex, String> {
    let translated = super::full(pattern, most)?;
    RegexBuilder::new(&translated).unicode(false).build().map_err(|error| error.to_string())
}

#[test]
fn expressions_are_read_as_re2_reads_them() {
    assert!(full("[^[/]+", 100).unwrap().is_match(b"abc"));
    assert!(!full(r"\d", 100).unwrap().is_match("٣".as_bytes()));
    assert!(full("[]a]+", 100).unwrap().is_match(b"]a"));
    assert!(full("[[:alpha:]&&]+", 100).unwrap().is_match(b"a&"));
    assert!(full("a|bc", 100).unwrap().is_match(b"bc"));
    assert!(!full("a|bc", 100).unwrap().is_match(b"abc"));
    let error = full("[", 100).unwrap_err();
    assert!(error.starts_with("`[` is not a regular expression: "), "{error}");
}

/// What Envoy 1.40 says to these, with `[q-z]{100}` behind them so that it says the size at all.
#[test]
fn programs_are_as_large_as_those_of_re2() {
    for (pattern, size) in [
        ("abc", 107),
        ("(abc|abd)", 109),
        ("a*", 105),
        ("a?", 106),
        ("(a|b)*c", 108),
        ("(get|put|list)-1(/.*)?", 124),
        ("^/a$", 105),
        ("(?i)abc", 107),
        (r"[A-Za-z0-9_.-]+@[a-z]+\.(com|org|net)", 124),
        ("(foo|foobar|fob)", 114),
        (r"(.*)\.(js|css|png|jpe?g)", 124),
        ("(ab){2,5}", 127),
        ("(a*)*", 111),
        ("(a|)+", 109),
        (r"\bfoo\b", 109),
        ("(one|two|three|four|five|six)", 126),
        (r"\pL+", 112),
        ("^a|^b", 104),
        ("a|bc|d", 108),
        ("(?:[ab][ab]|[ab][ab]|a?|ab){1,3}", 126),
    ] {
        let error = full(&format!("{pattern}[q-z]{{100}}"), 100).unwrap_err();
        assert!(error.contains(&format!("makes {size} instructions")), "{pattern}: {error}");
    }
    assert!(full("[a-z]{96}", 100).is_ok());
    assert!(full("[a-z]{97}", 100).is_err());
    assert!(full("[a-z]{97}", 101).is_ok());
}

/// Expressions that Envoy 1.40 takes, RE2's syntax in the bytes of Latin-1.
const TAKEN: &[&str] = &[
    r"\C",
    r"\Q.+\E",
    "(?<n>a)",
    "(?P<n>a)",
    "(?U)a+",
    r"\b{start}",
    r"\x41",
    r"\101",
    "[[:word:]]",
    r"\p{Greek}",
    "a{,5}",
    "{",
    "}",
    "]",
    "[a&&b]",
    "[a~~b]",
    "[[a]b]",
    r"[\pN_]",
    r"\a\f\v\t\n\r",
    r"\<",
    r"\_",
    "é",
    r"[\w-z]",
    "[]a]",
    "(?-s).",
];
/// And those that it refuses.
const REFUSED: &[&str] = &[
    "(?=a)",
    "a**",
    "a*+",
    "a{2}{3}",
    r"\Z",
    r"\x{100}",
    r"\u0041",
    r"\8",
    r"\1",
    "[[:foo:]]",
    r"[a-\d]",
    "[z-a]",
    r"\p{Alphabetic}",
    r"\p{Script=Greek}",
    "(",
    ")",
    "*",
    "+a",
    "a|*",
    "(?x)a b",
    "(?R)a",
    "[a--b]",
    r"\e",
    r"\cA",
    r"\é",
    "(?#c)a",
    "(?>a)",
    "a(?!b)",
    r"\G",
    r"\R",
    "[]",
    "a{1001}",
    "(a{100}){11}",
    "a\\",
];

#[test]
fn the_syntax_is_that_of_re2() {
    for pattern in TAKEN {
        assert!(full(pattern, 100).is_ok(), "{pattern}: {:?}", full(pattern, 100));
    }
    for pattern in REFUSED {
        let error = full(pattern, 100).unwrap_err();
        assert!(error.starts_with(&format!("`{pattern}` is not a regular expression: ")), "{error}");
    }
    let matches = |pattern: &str, text: &str| full(pattern, 100).unwrap().is_match(text.as_bytes());
    assert!(matches("a{,5}", "a{,5}") && matches(r"\Qa.b\Ec", "a.bc") && matches(r"\<a\>", "<a>"));
    assert!(matches("[a&&b]+", "a&b") && matches("é+", "é"));
}

/// Each of these cost minutes, or the stack of a build and with it the process.
#[test]
fn no_expression_costs_the_stack_or_more_than_linear_work() {
    let checks = || {
        let refused = |pattern: &str, why: &str| {
            let error = super::full(pattern, 1_000_000).unwrap_err();
            let end = &error[error.len().saturating_sub(300)..];
            assert!(error.contains(why), "{}…: {end}", &pattern[..20]);
        };
        let many = |part: &str| part.repeat(200_000 / part.len());
        let alike = many("a");
        refused(&format!("{alike}b|{alike}c"), "makes very many instructions");
        let steps: Vec<_> = (1..800).map(|length| "a".repeat(length)).collect();
        assert!(super::full(&steps.join("|"), 10_000).is_ok());
        refused(&many("{"), "makes very many instructions");
        refused(&format!("{}}}", many("{1,")), "makes very many instructions");
        refused(&many("[[:"), "a `[` has no `]`");
        refused(&many("("), "has no `)`");
        refused(&many("a?"), "makes very many instructions");
        refused(&many("ab|cd|"), "makes very many instructions");
        assert!(super::full(&format!("(?:{}b){{1000}}", many("ab|")), 10_000).is_ok());
        for (open, close) in [("(?:", ")"), ("(?:a|b", ")*"), ("(?:ab|ac", ")?"), ("(?:", "b){1,1}")] {
            let nested = |depth: usize| format!("{}a{}", open.repeat(depth), close.repeat(depth));
            refused(&nested(50_000), "nest");
            let errors = (1..260).step_by(3).filter_map(|depth| super::full(&nested(depth), 1_000_000).err());
            errors.for_each(|error| assert!(error.contains("nest"), "{error}"));
        }
    };
    // Half of what a build has.
    std::thread::Builder::new().stack_size(1 << 20).spawn(checks).unwrap().join().unwrap();
}

/// Copies of a repeated expression are counted like expressions that are written out.
#[test]
fn a_repetition_is_as_large_as_its_copies_written_out() {
    let size = |pattern: &str| {
        let error = full(pattern, 1).unwrap_err();
        error.split_once("makes ").unwrap().1.split_once(' ').unwrap().0.to_owned()
    };
    for part in ["a", "(?:ab)", "[ab]", "(?:ab|cd)", "(?:ab|ac|d*)", "(?:a*b)", r"(?:\ba|)", "(?:a+|b?)"] {
        assert_eq!(size(&format!("{part}{{3}}")), size(&part.repeat(3)), "{part}");
        assert_eq!(size(&format!("{part}{{2,}}")), size(&format!("{part}{part}+")), "{part}");
        let nested = format!("{part}(?:{part}(?:{part})?)?");
        assert_eq!(size(&format!("{part}{{1,3}}")), size(&nested), "{part}");
    }
}
