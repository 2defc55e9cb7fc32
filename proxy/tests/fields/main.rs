//! Field tests: each supported field of Envoy's API, changed alone, changes what the proxy builds.
//!
//! The cases are data, in `cases/`; README.md beside this file says how to add one. Order: `case` (what a case says), `schema` (where it
//! may stand), `outcome` (what is compared), `page` (an admin page, where it
//! alone shows a field).

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

mod case;
mod outcome;
mod page;
mod schema;

use std::collections::{BTreeMap, BTreeSet};

use case::{Case, Effect};
use outcome::{Bench, Outcome};

const UNREAD: &str = "the field is never read: the file with it gives the same";

/// What is wrong with a case; `None` when its field is read.
fn fault(bench: &Bench, case: &Case) -> Option<String> {
    let (base, changed) = match case.files() {
        Ok(files) => files,
        Err(text) => return Some(text),
    };
    let before = match bench.base(&base, &case.effect) {
        Ok(text) => text,
        Err(text) => return Some(text),
    };
    match (bench.outcome(&changed, &case.effect), &case.effect) {
        (Outcome::Built(after), _) if before == after => Some(UNREAD.to_owned()),
        (Outcome::Built(_), Effect::Refused(_)) => Some("the changed file is accepted".to_owned()),
        (Outcome::Built(_), _) => None,
        (Outcome::Refused(findings), Effect::Refused(said)) => {
            (!findings.contains(said)).then(|| format!("it is refused for another reason:\n{findings}"))
        }
        (Outcome::Refused(findings), _) => Some(format!("the changed file is refused:\n{findings}")),
    }
}

#[test]
fn each_supported_field_changes_what_is_built() {
    let bench = Bench::new();
    let mut cases = case::all();
    let known = case::unread();
    cases.retain(|case| !known.contains(&case.field));
    let each = cases.iter().filter_map(|case| Some(format!("{case}: {}", fault(&bench, case)?)));
    let faults: Vec<String> = each.collect();
    assert!(faults.is_empty(), "{} of {} cases fail:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

#[test]
fn every_supported_field_has_a_case() {
    let covered: BTreeSet<String> =
        case::all().into_iter().map(|case| case.field).chain(case::unread()).collect();
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for field in xds::implemented_fields().iter().filter(|field| !covered.contains(field.full_name())) {
        let message = field.parent_message().full_name().to_owned();
        missing.entry(message).or_default().push(field.name().to_owned());
    }
    let lines: Vec<String> =
        missing.iter().map(|(message, fields)| format!("{message}: {}", fields.join(", "))).collect();
    assert!(
        lines.is_empty(),
        "fields that are neither `harmless` nor `refused` and have no case in proxy/tests/fields/cases:\n{}",
        lines.join("\n")
    );
}

#[test]
fn an_unread_field_is_found() {
    // A name that only the case's own change knows: nothing in the proxy reads it.
    let bench = Bench::new();
    let case = Case::unread();
    assert_eq!(fault(&bench, &case).as_deref(), Some(UNREAD));
}
