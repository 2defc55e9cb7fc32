//! What pure code must not do, and where Envoy's wire types may appear.

use tidy::{Findings, Tree, code, paths_below, without_tests};

/// State machines over (state, now, event): a test replays a month in a second.
const POLICIES: [&str; 3] = ["proxy/src/retry", "proxy/src/route", "proxy/src/cluster"];
const IMPURE: [(&str, &str); 4] = [
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime::now", "take `now` as an argument"),
    (".await", "return what is to be done, and let the caller wait"),
    ("Rng::new", "take the random source as an argument"),
];

const MAY_SEE_WIRE_TYPES: [&str; 5] =
    ["proxy/src/build", "proxy/src/control", "proxy/src/admin", "proxy/src/app", "proxy/src/main.rs"];

#[test]
fn policies_never_wait_read_a_clock_or_draw_randomness() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in
        tree.with_extension("proxy/src/", "rs").filter(|file| is_below(file, &POLICIES) && !is_test(file))
    {
        let code = without_tests(&code(&tree.text(file)?));
        for (index, line) in code.lines().enumerate() {
            for (word, remedy) in IMPURE.iter().filter(|(word, _)| line.contains(word)) {
                findings.add(format!("{file}:{}: a policy does not use `{word}`: {remedy}", index + 1));
            }
        }
        for (line, name) in paths_below(&code, "fastrand") {
            if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                findings.add(format!("{file}:{line}: a policy does not use `fastrand::{name}`: take the random source as an argument"));
            }
        }
    }
    findings.none_or()
}

#[test]
fn envoys_wire_types_stay_at_the_border() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("proxy/src/", "rs").filter(|file| !is_below(file, &MAY_SEE_WIRE_TYPES)) {
        for (line, name) in paths_below(&code(&tree.text(file)?), "xds") {
            if name == "envoy" {
                findings.add(format!("{file}:{line}: `xds::envoy` belongs to build, control, admin and app: give the data plane a type of our own"));
            }
        }
    }
    findings.none_or()
}

/// Where each wait must end when the client leaves: the room, and the file in it that does the waiting.
const RACED: [(&str, &str); 2] =
    [("proxy/src/exchange", "proxy/src/exchange/timers.rs"), ("proxy/src/tcp", "proxy/src/tcp/carry.rs")];
/// Where a wait of such a room might come from; a function of the room must not have a name from there.
const WAITED_FOR: [&str; 4] =
    ["proxy/src/downstream", "proxy/src/upstream", "proxy/src/http1", "proxy/src/http2"];
const ELSEWHERE: [&str; 10] = [
    "sleep",
    "sleep_until",
    "timeout",
    "yield_now",
    "ready",
    "notified",
    "recv",
    "changed",
    "pending",
    "send",
];
/// Waits that are only arguments of a race.
const ARGUMENTS: [&str; 2] = ["first", "noticed_elsewhere"];

#[test]
fn every_wait_of_an_exchange_or_tunnel_races_the_clients_departure() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let foreign = async_functions(&tree, &WAITED_FOR)?;
    for (room, waiting) in RACED {
        let own = async_functions(&tree, &[room])?;
        for name in own.iter().filter(|name| foreign.contains(name) || ELSEWHERE.contains(&&***name)) {
            findings.add(format!("{room}: `async fn {name}` has the name of something that is waited for: a bare wait for that would not be found; give it another name"));
        }
        let may_wait = |name: &String| own.contains(name) && !ARGUMENTS.contains(&&**name);
        for file in
            tree.with_extension("proxy/src/", "rs").filter(|file| is_below(file, &[room]) && *file != waiting)
        {
            let code = without_tests(&code(&tree.text(file)?));
            for (line, name) in awaited(&code) {
                if !name.as_ref().is_some_and(may_wait) {
                    let name = name.unwrap_or_default();
                    findings.add(format!("{file}:{line}: `{name}` is awaited, but a client that leaves would not be noticed: make it an argument of a race ({waiting})"));
                }
            }
            for (index, line) in code.lines().enumerate() {
                for word in ["select!", "join!", "poll_fn"].iter().filter(|word| line.contains(**word)) {
                    findings.add(format!("{file}:{}: `{word}` belongs to {waiting}", index + 1));
                }
            }
        }
    }
    findings.none_or()
}

/// The names of functions below these folders that are waited for.
fn async_functions(tree: &Tree, folders: &[&str]) -> Result<Vec<String>, Findings> {
    let mut names = Vec::new();
    for file in
        tree.with_extension("proxy/src/", "rs").filter(|file| is_below(file, folders) && !is_test(file))
    {
        let code = without_tests(&code(&tree.text(file)?));
        for part in code.split("fn ").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let signature = part.split('{').next().unwrap_or_default();
            let before = code.get(..part.as_ptr() as usize - code.as_ptr() as usize - "fn ".len());
            let is_async = before.is_some_and(|before| before.trim_end().ends_with("async"));
            if is_async || signature.contains("-> impl Future") {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// What is awaited, as (line, the function whose future it is, where it is one's). Takes [`code`].
fn awaited(code: &str) -> Vec<(usize, Option<String>)> {
    let ends = code.match_indices(".await").map(|(at, _)| at);
    ends.map(|at| {
        let before = code.get(..at).unwrap_or_default();
        (before.lines().count(), called(before.trim_end()))
    })
    .collect()
}

/// The function that a call at the end of some code calls.
fn called(code: &str) -> Option<String> {
    if !code.ends_with(')') {
        return None;
    }
    let mut depth = 0usize;
    let open = code.char_indices().rev().find_map(|(at, c)| {
        match c {
            ')' => depth += 1,
            '(' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth == 0).then_some(at)
    })?;
    let before = code.get(..open)?;
    let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
    before.get(start..).filter(|name| !name.is_empty()).map(str::to_owned)
}

#[test]
fn what_is_awaited_is_told_by_its_call() {
    let code = "a.race(b.closed(), (c)).await?;\nlater.await;\nx\n    .go()\n    .await";
    let told: Vec<_> =
        awaited(code).into_iter().map(|(line, name)| (line, name.unwrap_or_default())).collect();
    assert_eq!(told, [(1, "race"), (2, ""), (5, "go")].map(|(line, name)| (line, name.to_owned())));
}

/// A module is `x.rs` and everything in `x/`.
fn is_below(file: &str, modules: &[&str]) -> bool {
    modules.iter().any(|module| {
        let rest = file.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    })
}

fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}
