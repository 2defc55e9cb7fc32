//! A configuration file with other addresses: the text stays as it is, comments and old forms included.

use std::collections::BTreeMap;

use crate::diagnostic::{Code, Diagnostic};
use crate::read::tree::{Kind, Node};
use crate::read::yaml;

/// The text with the value of each `socket_address.address` replaced where `new` gives another one.
pub fn rewrite_addresses(
    name: &str,
    text: &str,
    new: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Vec<Diagnostic>> {
    let Some(root) = yaml::parse(name, text).map_err(|error| vec![*error])? else {
        return Ok(text.to_owned());
    };
    let mut changes = BTreeMap::new();
    collect(&root, false, new, &mut changes);
    let mut rewritten = text.to_owned();
    for ((start, end), address) in changes.into_iter().rev() {
        rewritten.replace_range(start..end, &format!("\"{address}\""));
    }
    Ok(rewritten)
}

/// The text with a DNS server that all clusters ask, unless it names one already.
pub fn add_dns_resolver(name: &str, text: &str, address: &str, port: u16) -> Result<String, Vec<Diagnostic>> {
    let root = yaml::parse(name, text).map_err(|error| vec![*error])?;
    let Some(root @ Node { kind: Kind::Map(_), .. }) = root else {
        let error = Diagnostic::error(name, Code::Structure, "the file is not a mapping");
        return Err(vec![error]);
    };
    if root.get("typed_dns_resolver_config").is_some() || root.get("dns_resolution_config").is_some() {
        return Ok(text.to_owned());
    }
    let resolver = format!(
        r#""typed_dns_resolver_config": {{"name": "envoy.network.dns_resolver.cares", "typed_config": {{"@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig", "resolvers": [{{"socket_address": {{"address": "{address}", "port_value": {port}}}}}], "dns_resolver_options": {{"no_default_search_domain": true}}}}}}"#
    );
    let start = root.span.start as usize;
    if text[start..].starts_with('{') {
        let (before, after) = text.split_at(start + 1);
        let comma = if matches!(&root.kind, Kind::Map(entries) if entries.is_empty()) { "" } else { "," };
        return Ok(format!("{before}{resolver}{comma}{after}"));
    }
    // Before the first key, with its indentation, because a document may end in many ways.
    let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let (before, after) = text.split_at(start);
    Ok(format!("{before}{resolver}\n{}{after}", &text[line..start]))
}

type Changes = BTreeMap<(usize, usize), String>;

fn collect(node: &Node, socket_address: bool, new: &dyn Fn(&str) -> Option<String>, changes: &mut Changes) {
    match &node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => {
            for item in items {
                collect(item, false, new, changes);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                if let (true, "address", Kind::Scalar(scalar)) =
                    (socket_address, entry.name.as_str(), &entry.value.kind)
                    && let Some(address) = new(&scalar.text)
                {
                    let span = entry.value.span;
                    changes.insert((span.start as usize, span.end as usize), address);
                }
                let inside = matches!(entry.name.as_str(), "socket_address" | "socketAddress");
                collect(&entry.value, inside, new, changes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# kept\nadmin: {address: {socket_address: {address: 0.0.0.0, port_value: 8081}}}\nstatic_resources:\n  \
        clusters:\n  - name: '127.0.0.1' # a name, not an address\n    connect_timeout: 0.5s\n    hosts:\n    \
        - socket_address: {address: \"127.0.0.1\", port_value: 8080}\n";

    fn local(address: &str) -> Option<String> {
        matches!(address, "0.0.0.0" | "127.0.0.1").then(|| "127.0.1.2".to_owned())
    }

    #[test]
    fn only_socket_addresses_change() {
        let text = rewrite_addresses("pod.yaml", FILE, &local).unwrap();
        assert_eq!(text.matches("127.0.1.2").count(), 2);
        assert!(text.starts_with("# kept\n") && text.contains("'127.0.0.1' # a name"), "{text}");
        let message = crate::read_bootstrap("pod.yaml", &text).unwrap().message;
        assert_eq!(crate::to_json(&message)["admin"]["address"]["socket_address"]["address"], "127.0.1.2");
    }

    #[test]
    fn a_resolver_is_added_to_block_and_flow_style() {
        let flow = r#"{"static_resources": {"clusters": []}}"#;
        for text in [FILE, flow, "{}", "---\nadmin: {}\n...\n"] {
            let text = add_dns_resolver("pod.yaml", text, "127.0.0.1", 5353).unwrap();
            let message = crate::read_bootstrap("pod.yaml", &text).unwrap().message;
            let resolver = crate::to_json(&message)["typed_dns_resolver_config"].clone();
            let server = &resolver["typed_config"]["resolvers"][0]["socket_address"];
            assert_eq!(server["port_value"], 5353, "{text}");
            assert_eq!(add_dns_resolver("pod.yaml", &text, "::1", 53).unwrap(), text);
        }
    }
}
