//! `config upgrade` on whole files: the new files and the notices are committed beside the old ones (`UPDATE=1` writes them anew).

use super::{assert_committed, data, data_path};
use crate::{Code, read_bootstrap, render_text, upgrade_bootstrap};

/// The tutorials' files and those of `old/`.
fn files() -> Vec<String> {
    let mut names: Vec<String> = ["", "old/"]
        .iter()
        .flat_map(|dir| {
            let entries = std::fs::read_dir(data_path(dir)).unwrap();
            entries.map(move |entry| format!("{dir}{}", entry.unwrap().file_name().to_str().unwrap()))
        })
        .filter(|name| name.ends_with(".yaml") || name.ends_with(".json"))
        .filter(|name| !name.starts_with("everything"))
        .collect();
    names.sort();
    assert!(names.len() >= 6 + 19, "{names:?}");
    names
}

/// The upgraded text.
fn upgraded(name: &str, text: &str) -> String {
    upgrade_bootstrap(name, text)
        .unwrap_or_else(|found| panic!("{name}:\n{}", render_text(&found, text)))
        .text
}

#[test]
fn each_old_file_has_its_new_one_and_its_notices() {
    for name in files() {
        let text = data(&name);
        let upgraded = upgrade_bootstrap(&name, &text).map_err(|found| render_text(&found, &text)).unwrap();
        let short = name.rsplit('/').next().unwrap().rsplit_once('.').unwrap().0;
        assert_committed(&data_path(&format!("upgraded/{short}.yaml")), &upgraded.text);
        assert_committed(
            &data_path(&format!("upgraded/{short}.txt")),
            &render_text(&upgraded.notices, &text),
        );
    }
}

#[test]
fn an_upgraded_file_has_nothing_to_upgrade() {
    for name in files() {
        let once = upgraded(&name, &data(&name));
        let again = upgrade_bootstrap(&name, &once).unwrap();
        assert!(again.text == once, "{name} changes again:\n{}", again.text);
        let old: Vec<_> = again.notices.iter().filter(|notice| notice.code == Code::OldForm).collect();
        assert!(old.is_empty(), "{name}: {old:?}");
    }
}

#[test]
fn every_comment_comes_through() {
    for name in files() {
        let text = data(&name);
        let once = upgraded(&name, &text);
        for line in text.lines().filter(|_| name.ends_with(".yaml")) {
            if let Some(at) = line.find("# ") {
                assert_eq!(once.matches(&line[at..]).count(), 1, "{name}: {line}\n{once}");
            }
        }
    }
}

/// `REST_LEGACY` is the one thing that is not the same: petmesh runs it, and today's Envoy has no such value.
#[test]
fn an_upgraded_file_says_what_the_old_one_said() {
    for name in files() {
        let text = data(&name);
        let Ok(old) = read_bootstrap(&name, &text) else { continue };
        let kept = crate::read::kept_by_reader(&name, &text);
        let new = read_bootstrap(&name, &kept).map_err(|found| render_text(&found, &kept)).unwrap();
        assert_eq!(crate::to_json(&old.message), crate::to_json(&new.message), "{name}\n{kept}");
        let modern = upgraded(&name, &text).replace("api_type: REST\n", "api_type: REST_LEGACY\n");
        read_bootstrap(&name, &modern).map_err(|found| render_text(&found, &modern)).unwrap();
    }
}

#[test]
fn every_prefix_of_an_old_file_is_upgraded_or_refused() {
    for name in ["old/anchors.yaml", "old/camel-case.json", "old/faults.yaml"] {
        let text = data(name);
        for (end, _) in text.char_indices().step_by(17) {
            match upgrade_bootstrap(name, &text[..end]) {
                Ok(once) => assert_eq!(upgraded(name, &once.text), once.text),
                Err(found) => assert!(found.iter().any(crate::Diagnostic::is_error), "{name} to {end}"),
            }
        }
    }
}

#[test]
fn a_file_of_today_stays_as_it_is() {
    let text = "# mine\nstatic_resources:   {clusters:   []}\n\n\n# end";
    let upgraded = upgrade_bootstrap("envoy.yaml", text).unwrap();
    assert_eq!((upgraded.text.as_str(), upgraded.notices.len()), (text, 0));
}

#[test]
fn what_cannot_be_upgraded_is_an_error_at_its_place() {
    let listener = |filter: &str| {
        format!(
            "static_resources: {{listeners: [{{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, \
             filter_chains: [{{filters: [{filter}]}}]}}]}}"
        )
    };
    let routes = "{name: envoy.tcp_proxy, config: {stat_prefix: a, deprecated_v1: {routes: [{cluster: a, destination_ports: '1-65'}]}}}";
    for (filter, said) in [
        ("{name: acme.filter, config: {a: 1}}", "not an extension that petmesh knows"),
        (routes, "names 65 destination ports"),
        ("{name: envoy.tcp_proxy, config: {stat_prefx: a, cluster: b}}", "unknown field `stat_prefx`"),
    ] {
        let text = listener(filter);
        let found = upgrade_bootstrap("envoy.yaml", &text).unwrap_err();
        let error = found.iter().find(|one| one.is_error() && one.message.contains(said));
        let error = error.unwrap_or_else(|| panic!("{filter}: {}", render_text(&found, &text)));
        assert!(error.column.is_some_and(|column| column > 100), "{error:?}");
        assert!(read_bootstrap("envoy.yaml", &text).is_err(), "{filter}");
    }
}

/// Whatever is cut out of a file or poisoned in it: an answer, and one that stands.
#[test]
fn damaged_old_files_are_upgraded_or_refused() {
    for name in files() {
        let text = data(&name);
        let lines: Vec<&str> = text.lines().collect();
        for at in (0..lines.len()).step_by(13) {
            let indent = lines[at].len() - lines[at].trim_start().len();
            let key = lines[at].split_once(": ").map(|(key, _)| key);
            let others = ["", "{}", "[[]]", "-1", "\"%\\u2028\"", "|\n  a\n\n  b"];
            let changes = key.into_iter().flat_map(|key| others.map(|other| format!("{key}: {other}")));
            for change in
                [String::new(), " ".repeat(indent) + "# remark"].into_iter().chain(changes.take(at % 7))
            {
                let changed = [&lines[..at], &[change.as_str()], &lines[at + 1..]].concat().join("\n");
                if let Ok(once) = upgrade_bootstrap(&name, &changed) {
                    assert_eq!(upgraded(&name, &once.text), once.text, "{name}:\n{changed}");
                }
            }
        }
    }
}

#[test]
fn settings_without_a_value_are_absent_ones() {
    let filter = |inner: &str| {
        format!(
            "static_resources: {{listeners: [{{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, filter_chains: \
             [{{filters: [{{name: envoy.http_connection_manager, config: {{stat_prefix: a, route_config: {{}}, http_filters: \
             [{{name: envoy.router, {inner}}}]}}}}]}}]}}]}}"
        )
    };
    let said = |text: &str| super::json("envoy.yaml", &upgraded("envoy.yaml", text));
    let bare = said(&filter(""));
    for inner in
        ["typed_config: null", "typedConfig: ~", "config: ", "config: {}", "config: {deprecated_v1: true}"]
    {
        let text = filter(inner);
        assert_eq!(said(&text), bare, "{inner}");
        assert!(read_bootstrap("envoy.yaml", &text).is_ok(), "{inner}");
    }
}

#[test]
fn many_old_forms_do_not_hide_an_error() {
    let host =
        "{name: a, connect_timeout: 1s, hosts: [{socket_address: {address: 127.0.0.1, port_value: 1}}]}, ";
    let bad =
        |error: &str| format!("static_resources: {{clusters: [{}{{name: b{error}}}]}}", host.repeat(700));
    let found = read_bootstrap("envoy.yaml", &bad(", lb_polcy: RANDOM")).unwrap_err();
    assert!(found.iter().any(|one| one.is_error() && one.message.contains("lb_polcy")));
    assert!(upgrade_bootstrap("envoy.yaml", &bad(", lb_polcy: RANDOM")).is_err());
    let notices = upgrade_bootstrap("envoy.yaml", &bad("")).unwrap().notices;
    let last = notices.last().unwrap();
    assert!(last.message.contains("further findings are not shown"), "{last:?}");
}

/// The filters before the TCP proxy stand in each chain, and so does what the chain asked of TLS.
#[test]
fn each_chain_of_a_route_has_what_the_old_one_had() {
    let file = |chain: &str, routes: &str| {
        format!(
            "static_resources: {{listeners: [{{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, \
             filter_chains: [{{{chain}filters: [{{name: envoy.echo, config: {{}}}}, \
             {{name: envoy.tcp_proxy, config: {{stat_prefix: a, deprecated_v1: {{routes: [{routes}]}}}}}}]}}]}}]}}"
        )
    };
    let routes = "{cluster: a, destination_ports: '1-2'}, {cluster: b, source_ports: '7'}";
    let chain = "filter_chain_match: {server_names: [x.org]}, ";
    let (text, plain) = (file(chain, routes), file("", "{cluster: a, destination_ports: '1-65535'}"));
    // Ports 1 and 2, and the client's port 7 elsewhere.
    let new = upgrade_bootstrap("envoy.yaml", &text);
    let new = new.map_or_else(|found| panic!("{}", render_text(&found, &text)), |new| new.text);
    for (said, times) in [("network.echo.v3", 3), ("x.org", 3), ("destination_port", 2), ("source_ports", 1)]
    {
        assert_eq!(new.matches(said).count(), times, "{said}: {new}");
    }
    assert!(!upgraded("envoy.yaml", &plain).contains("destination_port"));
    for (chain, routes, said) in [
        ("", "{cluster: a, source_ports: 9-7}", "not a list of ports"),
        ("", "{cluster: a, source_ip_list: [10.0.0.0/33]}", "not a range of addresses"),
        ("filter_chain_match: {source_ports: [1]}, ", "{cluster: a, source_ports: '7'}", "and so does"),
    ] {
        let found = upgrade_bootstrap("envoy.yaml", &file(chain, routes)).unwrap_err();
        assert!(found.iter().any(|one| one.is_error() && one.message.contains(said)), "{said}: {found:?}");
    }
}
