//! Makes a case smaller while it still shows a difference of the same kind.

use crate::case::Case;

/// Takes parts away, largest first, for as long as `shows` agrees and at most `tries` times.
pub fn shrink(case: &Case, tries: usize, mut shows: impl FnMut(&Case) -> bool) -> Case {
    let mut smallest = case.clone();
    let mut left = tries;
    let mut attempt = |smaller: Case, smallest: &mut Case| {
        if left == 0 || smaller == *smallest {
            return false;
        }
        left -= 1;
        let shown = shows(&smaller);
        if shown {
            *smallest = smaller;
        }
        shown
    };
    // One exchange alone, the last ones first: what went before is rarely needed.
    for exchange in
        smallest.exchanges.clone().into_iter().rev().take(if case.exchanges.len() > 1 { 60 } else { 0 })
    {
        if attempt(Case { exchanges: vec![exchange], ..smallest.clone() }, &mut smallest) {
            break;
        }
    }
    loop {
        let before = smallest.clone();
        for at in (0..smallest.configuration.changes.len()).rev() {
            let mut smaller = smallest.clone();
            smaller.configuration.changes.remove(at);
            attempt(smaller, &mut smallest);
        }
        // Each of them is made from the case as it is, so the first that still shows it begins the next round.
        for smaller in parts(&smallest) {
            if attempt(smaller, &mut smallest) {
                break;
            }
        }
        if smallest == before {
            return smallest;
        }
    }
}

/// Every case that has one part less. Each is made from the case as it was, so only one of them is taken in a round.
fn parts(case: &Case) -> Vec<Case> {
    let mut smaller = Vec::new();
    let mut push = |change: &dyn Fn(&mut Case)| {
        let mut next = case.clone();
        change(&mut next);
        smaller.push(next);
    };
    for (at, exchange) in case.exchanges.iter().enumerate() {
        if case.exchanges.len() > 1 {
            push(&|case| drop(case.exchanges.remove(at)));
        }
        for request in 0..exchange.requests.len() {
            if exchange.requests.len() > 1 {
                push(&|case| drop(case.exchanges[at].requests.remove(request)));
            }
            let fields = exchange.requests[request].headers.len();
            for field in (0..fields).rev() {
                push(&|case| drop(case.exchanges[at].requests[request].headers.remove(field)));
            }
            push(&|case| {
                let request = &mut case.exchanges[at].requests[request];
                request.body.clear();
                request.headers.retain(|line| {
                    !line.starts_with("content-length") && !line.starts_with("transfer-encoding")
                });
            });
        }
        if exchange.upstream.len() > 1 {
            push(&|case| drop(case.exchanges[at].upstream.pop()));
        }
        push(&|case| case.exchanges[at].upstream = vec![plain()]);
    }
    smaller
}

fn plain() -> crate::upstream::Script {
    crate::upstream::Script {
        send: "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Exchange, Request};
    use crate::configuration::{Change, Configuration};

    #[test]
    fn what_does_not_matter_goes_away() {
        let request = |line: &str| Request {
            line: line.to_owned(),
            headers: vec!["host: here".to_owned(), "a: b".to_owned(), "guilty: 1".to_owned()],
            body: "body".to_owned(),
        };
        let exchange = |line: &str| Exchange {
            requests: vec![request(line); 2],
            pipelined: false,
            upstream: vec![plain(); 2],
        };
        let change = |name: &str| Change { name: name.to_owned(), places: Default::default() };
        let case = Case {
            about: String::new(),
            configuration: Configuration { changes: vec![change("x"), change("guilty"), change("y")] },
            exchanges: vec![exchange("GET / HTTP/1.1"), exchange("POST / HTTP/1.1")],
        };
        let shows = |case: &Case| {
            let changed = case.configuration.changes.iter().any(|change| change.name == "guilty");
            let sent = case.exchanges.iter().flat_map(|exchange| &exchange.requests).any(|request| {
                request.line.starts_with("POST")
                    && request.headers.iter().any(|line| line.starts_with("guilty"))
            });
            changed && sent
        };
        let smallest = shrink(&case, 200, shows);
        assert_eq!(smallest.configuration.changes, [change("guilty")]);
        let [exchange] = &smallest.exchanges[..] else { panic!("{smallest:?}") };
        let expected = Request {
            line: "POST / HTTP/1.1".to_owned(),
            headers: vec!["guilty: 1".to_owned()],
            body: String::new(),
        };
        assert_eq!(exchange.requests, [expected]);
        assert_eq!(exchange.upstream, [plain()]);
    }
}
