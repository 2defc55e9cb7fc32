//! Makes a case smaller while it still shows a difference of the same kind. Every smaller case that is one edit away is
//! tried at once, because cases share a pair of proxies.

use serde_json::{Value, json};

use crate::case::Case;

/// A part of a case's JSON is taken away (`None`) or replaced. Several parts at once where one alone breaks the case.
type Edit = Vec<(Vec<Step>, Option<Value>)>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

/// Tries at most so many cases. `shows` says of each whether it still shows the difference.
pub fn shrink(case: &Case, tries: usize, mut shows: impl FnMut(&[Case]) -> Vec<bool>) -> Case {
    let mut left = tries;
    let mut smallest = case.clone();
    let mut shows = |cases: &[Case]| {
        let cases = cases.get(..cases.len().min(left)).unwrap_or_default();
        left -= cases.len();
        if cases.is_empty() { Vec::new() } else { shows(cases) }
    };
    // One exchange alone is the best that can be.
    let alone: Vec<Case> = match &case.exchanges[..] {
        [] | [_] => Vec::new(),
        several => several
            .iter()
            .map(|exchange| Case { exchanges: vec![exchange.clone()], ..case.clone() })
            .collect(),
    };
    let shown = shows(&alone);
    if let Some((found, _)) = alone.into_iter().zip(shown).find(|(_, shown)| *shown) {
        smallest = found;
    }
    loop {
        let Some(next) = round(&smallest, &mut shows) else { return smallest };
        smallest = next;
    }
}

/// The case after every edit that keeps the difference; nothing if no edit does.
fn round(case: &Case, shows: &mut impl FnMut(&[Case]) -> Vec<bool>) -> Option<Case> {
    let tree = serde_json::to_value(case).ok()?;
    let (mut edits, mut cases) = (Vec::new(), Vec::new());
    for edit in edits_of(case, &tree) {
        if let Some(smaller) = edited(&tree, &[&edit]).filter(|smaller| smaller != case) {
            edits.push(edit);
            cases.push(smaller);
        }
    }
    let shown = shows(&cases);
    let good: Vec<&Edit> =
        edits.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(edit, _)| edit).collect();
    let mut taken = Vec::new();
    together(&tree, &good, &mut taken, shows);
    if taken.is_empty() { None } else { edited(&tree, &taken) }
}

/// Adds to `taken` as many of the edits as can be made together.
fn together<'e>(
    tree: &Value,
    edits: &[&'e Edit],
    taken: &mut Vec<&'e Edit>,
    shows: &mut impl FnMut(&[Case]) -> Vec<bool>,
) {
    if edits.is_empty() {
        return;
    }
    let all: Vec<&Edit> = taken.iter().chain(edits).copied().collect();
    let first_alone = taken.is_empty() && edits.len() == 1;
    let works = first_alone
        || edited(tree, &all).is_some_and(|case| shows(&[case]).first().copied().unwrap_or(false));
    if works {
        taken.extend(edits);
    } else if edits.len() > 1 {
        let (left, right) = edits.split_at(edits.len() / 2);
        together(tree, left, taken, shows);
        together(tree, right, taken, shows);
    }
}

/// The case with edits made, the last place first, so that the places of the others stay.
fn edited(tree: &Value, edits: &[&Edit]) -> Option<Case> {
    let mut parts: Vec<&(Vec<Step>, Option<Value>)> = edits.iter().copied().flatten().collect();
    parts.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut tree = tree.clone();
    for (path, value) in parts {
        edit(&mut tree, path, value.as_ref());
    }
    serde_json::from_value(tree).ok()
}

fn edit(tree: &mut Value, path: &[Step], value: Option<&Value>) {
    let Some((last, path)) = path.split_last() else { return };
    let mut place = tree;
    for step in path {
        let next = match (place, step) {
            (Value::Object(fields), Step::Key(key)) => fields.get_mut(key),
            (Value::Array(items), Step::Index(at)) => items.get_mut(*at),
            _ => None,
        };
        let Some(next) = next else { return };
        place = next;
    }
    match (place, last, value) {
        (Value::Object(fields), Step::Key(key), Some(value)) => {
            fields.insert(key.clone(), value.clone());
        }
        (Value::Object(fields), Step::Key(key), None) => drop(fields.remove(key)),
        (Value::Array(items), Step::Index(at), Some(value)) => {
            if let Some(place) = items.get_mut(*at) {
                value.clone_into(place);
            }
        }
        (Value::Array(items), Step::Index(at), None) if *at < items.len() => {
            drop(items.remove(*at));
        }
        _ => {}
    }
}

fn edits_of(case: &Case, tree: &Value) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (at, change) in case.configuration.changes.iter().enumerate() {
        let path = vec![key("configuration"), key("changes"), Step::Index(at)];
        edits.push(vec![(path.clone(), None)]);
        let places = with(&path, key("places"));
        for place in change.places.keys() {
            let path = with(&places, key(place));
            removals(value_at(tree, &path), &path, &mut edits);
        }
    }
    for (at, exchange) in case.exchanges.iter().enumerate() {
        let path = vec![key("exchanges"), Step::Index(at)];
        if case.exchanges.len() > 1 {
            edits.push(vec![(path.clone(), None)]);
        }
        edits.extend(["pipelined", "http2", "abort"].map(|flag| vec![(with(&path, key(flag)), None)]));
        for (script, _) in exchange.upstream.iter().enumerate() {
            let path = with(&with(&path, key("upstream")), Step::Index(script));
            edits.push(vec![(path.clone(), None)]);
            edits.push(vec![(path, Some(plain()))]);
        }
        for (number, request) in exchange.requests.iter().enumerate() {
            let path = with(&with(&path, key("requests")), Step::Index(number));
            if exchange.requests.len() > 1 {
                edits.push(vec![(path.clone(), None)]);
            }
            edits.extend(of_request(request, &path));
        }
    }
    edits
}

/// Every key and item below a place.
fn removals(value: Option<&Value>, path: &[Step], edits: &mut Vec<Edit>) {
    let steps: Vec<(Step, &Value)> = match value {
        Some(Value::Object(fields)) => fields.iter().map(|(name, inner)| (key(name), inner)).collect(),
        Some(Value::Array(items)) => {
            items.iter().enumerate().map(|(at, inner)| (Step::Index(at), inner)).collect()
        }
        _ => return,
    };
    for (step, inner) in steps {
        let path = with(path, step);
        if path.last() != Some(&key("@type")) {
            edits.push(vec![(path.clone(), None)]);
            removals(Some(inner), &path, edits);
        }
    }
}

fn of_request(request: &crate::case::Request, path: &[Step]) -> Vec<Edit> {
    let headers = with(path, key("headers"));
    let mut edits: Vec<Edit> =
        (0..request.headers.len()).map(|at| vec![(with(&headers, Step::Index(at)), None)]).collect();
    let framing = |line: &str| line.starts_with("content-length") || line.starts_with("transfer-encoding");
    let mut bare: Edit = vec![(with(path, key("body")), None)];
    for (at, line) in request.headers.iter().enumerate() {
        let place = with(&headers, Step::Index(at));
        if framing(line) {
            bare.push((place.clone(), None));
        }
        if line.starts_with("host:") {
            edits.push(vec![(place, Some(json!("host: here")))]);
        }
    }
    edits.extend([bare, vec![(with(path, key("trailers")), None)]]);
    let words: Vec<&str> = request.line.split(' ').collect();
    if let [method, target, version] = words[..] {
        let line = |text: String| vec![(with(path, key("line")), Some(Value::String(text)))];
        // Both words at once first: edits of one place exclude each other.
        edits.push(line(format!("GET / {version}")));
        edits.push(line(format!("{method} / {version}")));
        edits.push(line(format!("GET {target} {version}")));
        if let Some((target, _)) = target.split_once('?') {
            edits.push(line(format!("{method} {target} {version}")));
        }
    }
    edits
}

fn value_at<'t>(tree: &'t Value, path: &[Step]) -> Option<&'t Value> {
    path.iter().try_fold(tree, |place, step| match step {
        Step::Key(key) => place.get(key),
        Step::Index(at) => place.get(at),
    })
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

fn with(path: &[Step], step: Step) -> Vec<Step> {
    path.iter().cloned().chain([step]).collect()
}

fn plain() -> Value {
    json!({ "send": "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "then": "go_on" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Exchange, Request};
    use crate::configuration::{Change, Configuration};

    fn case() -> Case {
        let request = |line: &str| Request {
            line: line.to_owned(),
            headers: ["host: here", "a: b", "guilty: 1", "content-length: 4"].map(str::to_owned).to_vec(),
            body: "body".to_owned(),
            trailers: vec!["t: 1".to_owned()],
        };
        let script: crate::upstream::Script =
            serde_json::from_value(json!({ "send": "x", "then": "close" })).unwrap();
        let exchange = |line: &str| Exchange {
            requests: vec![request(line); 2],
            pipelined: true,
            http2: true,
            abort: true,
            upstream: vec![script.clone(); 2],
        };
        let places = json!({ "$manager": { "via": "x", "guilty": { "deep": [1, { "a": 1 }] } } });
        let change = |name: &str| Change {
            name: name.to_owned(),
            places: serde_json::from_value(places.clone()).unwrap(),
        };
        Case {
            about: String::new(),
            configuration: Configuration {
                changes: ["x", "guilty", "y"].map(change).to_vec(),
                ..Configuration::default()
            },
            exchanges: ["GET /a HTTP/1.1", "POST /b?c HTTP/1.1"].map(exchange).to_vec(),
        }
    }

    #[test]
    fn what_does_not_matter_goes_away() {
        let shows = |case: &Case| {
            let changed =
                case.configuration.changes.iter().any(|change| {
                    change.name == "guilty" && change.places["$manager"]["guilty"]["deep"][0] == 1
                });
            let sent = case.exchanges.iter().flat_map(|exchange| &exchange.requests).any(|request| {
                request.line.starts_with("POST")
                    && request.headers.iter().any(|line| line.starts_with("guilty"))
            });
            changed && sent
        };
        let mut batches = 0;
        let smallest = shrink(&case(), 400, |cases| {
            batches += 1;
            cases.iter().map(shows).collect()
        });
        let [change] = &smallest.configuration.changes[..] else { panic!("{smallest:?}") };
        assert_eq!(json!(change.places), json!({ "$manager": { "guilty": { "deep": [1] } } }));
        let [exchange] = &smallest.exchanges[..] else { panic!("{smallest:?}") };
        let expected = Request {
            line: "POST / HTTP/1.1".to_owned(),
            headers: vec!["guilty: 1".to_owned()],
            ..Request::default()
        };
        assert_eq!(exchange.requests, [expected]);
        assert_eq!(*exchange, Exchange { requests: exchange.requests.clone(), ..Exchange::default() });
        assert!(batches < 30, "{batches} batches: each starts a pair of proxies");
    }

    #[test]
    fn what_needs_several_exchanges_keeps_them() {
        let smallest =
            shrink(&case(), 400, |cases| cases.iter().map(|case| case.exchanges.len() == 2).collect());
        assert_eq!(smallest.exchanges.len(), 2);
        assert!(smallest.configuration.changes.is_empty());
    }
}
