//! Label and field selectors: `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (b,c)`, `a notin (b,c)`, joined by commas.
//!
//! Parsed by `options`, asked by `list`, `watch` and `write`.

use serde_json::Value;

use crate::resources::{Resource, text};
use crate::status::Status;

/// What a list or watch is limited to; the default matches everything.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<Requirement>,
    // JSON pointer, operator (`Is` or `IsNot`) and value.
    fields: Vec<(String, Operator, String)>,
}

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Is,
    IsNot,
    Exists,
    Absent,
}

impl Selector {
    /// Reads both selectors of a request.
    ///
    /// # Errors
    /// 400 with the part that cannot be read.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Status> {
        let unreadable = |part: &str| Status::bad_request(format!("unable to parse requirement: {part}"));
        let labels: Result<_, _> =
            split(labels).into_iter().map(|part| requirement(part).ok_or_else(|| unreadable(part))).collect();
        let fields: Result<_, _> = split(fields).into_iter().map(|part| field(resource, part)).collect();
        Ok(Self { labels: labels?, fields: fields? })
    }

    /// Whether the selector is empty.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it matches an object.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        self.labels.iter().all(|wanted| {
            let value = labels.and_then(|labels| labels.get(&wanted.key)).and_then(Value::as_str);
            let listed = value.is_some_and(|value| wanted.values.iter().any(|one| one == value));
            match wanted.operator {
                Operator::Is => listed,
                Operator::IsNot => !listed,
                Operator::Exists => value.is_some(),
                Operator::Absent => value.is_none(),
            }
        }) && self
            .fields
            .iter()
            .all(|(pointer, operator, value)| (text(object, pointer) == value) == (*operator == Operator::Is))
    }
}

// At commas outside of parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = selector.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(part: &str) -> Option<Requirement> {
    let make = |key: &str, operator, values: Vec<String>| {
        let key = key.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        (!key.is_empty() && key.chars().all(fine)).then(|| Requirement {
            key: key.to_owned(),
            operator,
            values,
        })
    };
    if let Some(list) = part.strip_suffix(')') {
        let (head, values) = list.split_once('(')?;
        let (key, word) = head.trim().rsplit_once(char::is_whitespace)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        return match word {
            "in" => make(key, Operator::Is, values),
            "notin" => make(key, Operator::IsNot, values),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return make(key, Operator::IsNot, vec![value.trim().to_owned()]);
    }
    if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return make(key, Operator::Is, vec![value.trim().to_owned()]);
    }
    match part.strip_prefix('!') {
        Some(key) => make(key, Operator::Absent, Vec::new()),
        None => make(part, Operator::Exists, Vec::new()),
    }
}

fn field(resource: &Resource, part: &str) -> Result<(String, Operator, String), Status> {
    let (name, operator, value) = if let Some((name, value)) = part.split_once("!=") {
        (name, Operator::IsNot, value)
    } else if let Some((name, value)) = part.split_once('=') {
        (name, Operator::Is, value.strip_prefix('=').unwrap_or(value))
    } else {
        return Err(Status::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")));
    };
    let pointer = match name {
        "metadata.name" => Some("/metadata/name"),
        "metadata.namespace" if resource.namespaced => Some("/metadata/namespace"),
        other => resource.fields.iter().find(|(name, _)| *name == other).map(|(_, pointer)| *pointer),
    };
    match pointer {
        Some(pointer) => Ok((pointer.to_owned(), operator, value.to_owned())),
        None => Err(Status::bad_request(format!("field label not supported: {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::by_name;

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"app": "pet", "tier": "back"}},
            "status": {"phase": "Running"}});
        Selector::parse(by_name("pod").unwrap(), labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn labels_select_by_value_set_and_presence() {
        for yes in ["", "app=pet", "app == pet", "app!=dog", "app in (dog, pet),tier", "x notin (y)", "!x"] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in ["app=dog", "app!=pet", "app in (dog)", "app notin (pet)", "x", "!app", "app=pet,x"] {
            assert!(!matches(no, ""), "{no}");
        }
    }

    #[test]
    fn fields_select_by_name_and_by_what_the_kind_offers() {
        assert!(matches("", "metadata.name=a,metadata.namespace!=other,status.phase=Running"));
        assert!(!matches("", "metadata.name=b"));
        let unknown = Selector::parse(by_name("pod").unwrap(), "", "spec.x=1").unwrap_err();
        assert_eq!((unknown.code, unknown.message.as_str()), (400, "field label not supported: spec.x"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["a in b)", "=x", "a b"] {
            assert_eq!(Selector::parse(by_name("pod").unwrap(), bad, "").unwrap_err().code, 400, "{bad}");
        }
    }
}
