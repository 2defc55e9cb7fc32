//! Mutated files: a configuration with one or two parts broken at random. Both readers take it, or both refuse it.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::configuration::{Change, Configuration};

/// Breaks parts of a configuration. Every breakage is a change like any other, so that a case can hold it.
pub fn mutated(rng: &mut Rng, mut configuration: Configuration) -> anyhow::Result<Configuration> {
    let wanted = configuration.changes.len() + rng.usize(1..3);
    // Some breakages change nothing: an empty object laid over an object.
    for _ in 0..20 {
        if configuration.changes.len() == wanted {
            break;
        }
        let tree = configuration.tree()?;
        let mut places = Vec::new();
        if configuration.file.is_some() {
            all_places(&tree, "", &mut places);
        } else {
            for part in ["listeners", "clusters"] {
                let at = format!("static_resources.{part}");
                all_places(&tree["static_resources"][part], &at, &mut places);
            }
        }
        let Some((at, step, value)) = places.get(rng.usize(..places.len().max(1))) else { break };
        let parent = at_place(&tree, at);
        let over = match step {
            Step::Key(key) => of_key(rng, key, value),
            Step::Index(index) => of_item(rng, *index, parent.and_then(Value::as_array)),
        };
        let change = Change { name: format!("broken: {at}"), places: [(at.clone(), over)].into() };
        configuration.changes.push(change);
        if configuration.tree()? == tree {
            configuration.changes.pop();
        }
    }
    Ok(configuration)
}

enum Step {
    Key(String),
    Index(usize),
}

/// Every key and item, with the place of what holds it.
fn all_places<'t>(value: &'t Value, at: &str, places: &mut Vec<(String, Step, &'t Value)>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                places.push((at.to_owned(), Step::Key(key.clone()), inner));
                let step = if key.contains('.') { format!("[{key}]") } else { key.clone() };
                let at = if at.is_empty() { step } else { format!("{at}.{step}") };
                all_places(inner, &at, places);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                places.push((at.to_owned(), Step::Index(index), inner));
                all_places(inner, &format!("{at}.{index}"), places);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn at_place<'t>(tree: &'t Value, at: &str) -> Option<&'t Value> {
    crate::overlay::steps(at).try_fold(tree, |place, step| match place {
        Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get(at)),
        place => place.get(step),
    })
}

/// What is laid over the object that has the key.
fn of_key(rng: &mut Rng, key: &str, value: &Value) -> Value {
    match rng.u8(..8) {
        0 | 1 => json!({ key: null }),
        2 => json!({ key: null, format!("{key}x"): value }),
        3 => json!({ key: [value] }),
        _ => json!({ key: instead(rng, value) }),
    }
}

/// The list with one item taken away, doubled or replaced.
fn of_item(rng: &mut Rng, index: usize, items: Option<&Vec<Value>>) -> Value {
    let mut items = items.cloned().unwrap_or_default();
    if index < items.len() {
        match rng.u8(..3) {
            0 => drop(items.remove(index)),
            1 => items.insert(index, items[index].clone()),
            _ => items[index] = instead(rng, &items[index].clone()),
        }
    }
    Value::Array(items)
}

/// A value that is near, or of another type.
fn instead(rng: &mut Rng, value: &Value) -> Value {
    let numbers = [json!(0), json!(-1), json!(1.5), json!(4_294_967_296_u64), json!("7"), json!(1e3)];
    let strings = [
        json!(""),
        json!(" "),
        json!("other"),
        json!("a\u{0}b"),
        json!("%REQ(a)%"),
        json!("%NO_SUCH%"),
        json!("*"),
        json!(7),
        json!(true),
    ];
    let durations =
        ["1", "1ms", "-1s", "0s", "1.5s", "0.0000000001s", "1s ", "99999999999999s", "+1s", ".5s"];
    let any = [json!(null), json!({}), json!([]), json!(""), json!(0), json!(true), json!({ "x": 1 })];
    let pick = |rng: &mut Rng, from: &[Value]| from[rng.usize(..from.len())].clone();
    match value {
        _ if rng.u8(..4) == 0 => pick(rng, &any),
        Value::Number(number) if rng.bool() => json!(number.as_f64().unwrap_or(0.0) + 1.0),
        Value::Number(_) => pick(rng, &numbers),
        Value::Bool(is) if rng.bool() => json!(!is),
        Value::Bool(is) => json!(is.to_string()),
        Value::String(text) if text.ends_with('s') && text.starts_with(|c: char| c.is_ascii_digit()) => {
            json!(durations[rng.usize(..durations.len())])
        }
        Value::String(text) if rng.bool() => json!(format!("{text}x")),
        Value::String(_) => pick(rng, &strings),
        Value::Null | Value::Array(_) | Value::Object(_) => pick(rng, &any),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::SHIPPED;

    #[test]
    fn a_broken_configuration_is_another_one() {
        for seed in 0..40 {
            let mut rng = Rng::with_seed(seed);
            let file = (seed % 2 == 0).then(|| SHIPPED[seed as usize % SHIPPED.len()].to_owned());
            let whole = Configuration { file, ..Configuration::default() };
            let broken = mutated(&mut rng, whole.clone()).unwrap();
            assert!(!broken.changes.is_empty());
            assert_ne!(broken.tree().unwrap(), whole.tree().unwrap(), "seed {seed}: {broken:?}");
        }
    }
}
