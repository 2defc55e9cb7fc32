//! ResourceQuotas: a create that a quota of the namespace does not leave room for is refused, in the real server's words.
//!
//! What is used is `status.used` of the quota, as a test (or a controller) has written it, or else what is stored.

use serde_json::Value;

use crate::resources::{self, Resource, items, plain};
use crate::status::Status;
use crate::store::Store;

/// Whether an object may be created.
///
/// # Errors
/// 403 `exceeded quota` with what was asked for, what is used and what there is.
pub fn admit(
    store: &Store,
    resource: &'static Resource,
    namespace: &str,
    name: &str,
    object: &Value,
) -> Result<(), Status> {
    if !resource.namespaced {
        return Ok(());
    }
    for quota in store.list("resourcequotas", Some(namespace)) {
        let (mut requested, mut used, mut limited) = (Vec::new(), Vec::new(), Vec::new());
        let hard = quota.pointer("/spec/hard").and_then(Value::as_object);
        for (what, hard) in hard.into_iter().flatten() {
            let Some(asked) = asks(resource, object, what) else { continue };
            let (present, most) = (in_use(store, resource, &quota, namespace, what), milli(hard));
            if most.is_some_and(|most| present + asked > most) {
                requested.push(format!("{what}={}", shown(what, asked)));
                used.push(format!("{what}={}", shown(what, present)));
                limited.push(format!("{what}={}", plain(hard)));
            }
        }
        if !requested.is_empty() {
            let why = format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                resources::text(&quota, "/metadata/name"),
                requested.join(","),
                used.join(","),
                limited.join(",")
            );
            return Err(Status::refused(resource, name, &why));
        }
    }
    Ok(())
}

// How much of something an object asks for, in thousandths; None if the quota is about something else.
fn asks(resource: &Resource, object: &Value, what: &str) -> Option<i128> {
    if what == resource.plural && resource.group.is_empty()
        || what == format!("count/{}", resource.qualified())
    {
        return Some(1000);
    }
    if resource.kind == "Service" && what == "services.nodeports" {
        let ports = items(object, "/spec/ports").len();
        return (object["spec"]["type"] == "NodePort").then_some(1000 * ports as i128);
    }
    if resource.kind != "Pod" {
        return None;
    }
    let (part, unit) = match what.split_once('.') {
        Some((part @ ("requests" | "limits"), unit)) => (part, unit),
        None if matches!(what, "cpu" | "memory") => ("requests", what),
        _ => return None,
    };
    let sidecars =
        items(object, "/spec/initContainers").iter().filter(|one| one["restartPolicy"] == "Always");
    let containers = items(object, "/spec/containers").iter().chain(sidecars);
    Some(containers.filter_map(|one| milli(&one["resources"][part][unit])).sum())
}

fn in_use(store: &Store, resource: &'static Resource, quota: &Value, namespace: &str, what: &str) -> i128 {
    if let Some(used) = milli(&quota["status"]["used"][what]) {
        return used;
    }
    let stored = store.list_of(resource, namespace);
    stored.iter().filter_map(|object| asks(resource, object, what)).sum()
}

// A quantity in thousandths: 2, 100m, 64Mi, 1G.
fn milli(quantity: &Value) -> Option<i128> {
    let text = match quantity {
        Value::Null => return None,
        given => plain(given),
    };
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: i128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole.parse::<i128>().ok()? * factor;
    let mut place = factor;
    for digit in part.chars().filter_map(|digit| digit.to_digit(10)) {
        place /= 10;
        value += place * i128::from(digit);
    }
    Some(value)
}

fn shown(what: &str, milli: i128) -> String {
    let whole = milli / 1000;
    if milli % 1000 != 0 {
        return format!("{milli}m");
    }
    let binary = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match binary.iter().find(|(_, unit)| what.ends_with("memory") && whole != 0 && whole % unit == 0) {
        Some((suffix, unit)) => format!("{}{suffix}", whole / unit),
        None => whole.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_and_shown() {
        let read = |text: &str| milli(&json!(text)).unwrap();
        assert_eq!((read("2"), read("100m"), read("0.5"), read("1.5k")), (2000, 100, 500, 1_500_000));
        assert_eq!(shown("requests.memory", read("64Mi")), "64Mi");
        assert_eq!(
            (shown("requests.cpu", read("0.25")), shown("pods", read("4"))),
            ("250m".into(), "4".into())
        );
        assert_eq!((milli(&json!(3)), milli(&json!("x")), milli(&Value::Null)), (Some(3000), None, None));
    }
}
