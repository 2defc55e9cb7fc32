//! What the fuzz targets try, and what must hold for any input.

use xds::{Diagnostic, Read, envoy::config::bootstrap::v3::Bootstrap, to_json};

/// Any text is read, or refused with at least one error that can be shown.
#[allow(dead_code)] // each target uses one of the two
pub fn read(text: &str) {
    match xds::read_bootstrap_partly("fuzz.yaml", text) {
        Ok(read) => accepted(&read, text),
        Err((findings, partial)) => {
            assert!(findings.iter().any(Diagnostic::is_error), "refused without an error");
            show(&findings, text);
            if let Some(read) = partial {
                show(&xds::lint(&read, true), text);
            }
        }
    }
}

/// The text as a file, and as fields of a cluster and of a connection manager in the forms of 2018: what is accepted is, when it is dumped,
/// a file of today without any old form; so is what the upgrade writes.
#[allow(dead_code)] // each target uses one of the two
pub fn upgrade(text: &str) {
    let manager = "envoy.http_connection_manager";
    for whole in [
        format!("static_resources: {{clusters: [{{name: c, {text}}}]}}"),
        format!(
            "static_resources: {{listeners: [{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 1}}}}, filter_chains: \
             [{{filters: [{{name: {manager}, config: {{stat_prefix: s, {text}}}}}]}}]}}]}}"
        ),
        format!(
            "static_resources: {{listeners: [{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 1}}}}, filter_chains: \
             [{{filters: [{{name: {manager}, config: {{stat_prefix: s, route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: \
             [{{{text}}}]}}]}}}}}}]}}]}}]}}"
        ),
    ] {
        read(&whole);
        rewrite(&whole);
    }
    rewrite(text);
}

/// `petmesh config upgrade`: errors that can be shown, or a file that has nothing left to upgrade.
fn rewrite(text: &str) {
    match xds::upgrade_bootstrap("fuzz.yaml", text) {
        Ok(new) => {
            show(&new.notices, text);
            match xds::upgrade_bootstrap("again.yaml", &new.text) {
                Ok(again) => assert_eq!(again.text, new.text, "upgraded twice"),
                Err(found) => panic!("an upgraded file is refused:\n{}", xds::render_text(&found, &new.text)),
            }
        }
        Err(found) => {
            assert!(found.iter().any(Diagnostic::is_error), "refused without an error");
            show(&found, text);
        }
    }
}

fn accepted(read: &Read<Bootstrap>, text: &str) {
    show(&read.warnings, text);
    show(&xds::lint(read, true), text);
    let dump = format!("{:#}", to_json(&read.message));
    let again = match xds::read_bootstrap("dump.json", &dump) {
        Ok(again) => again,
        Err(findings) => panic!("what was dumped is refused:\n{}", xds::render_text(&findings, &dump)),
    };
    let old = again.warnings.iter().find(|warning| warning.code == xds::Code::OldForm);
    assert!(old.is_none(), "an old form was dumped: {old:?}");
    assert_eq!(format!("{:#}", to_json(&again.message)), dump, "what was dumped reads as something else");
}

fn show(findings: &[Diagnostic], text: &str) {
    assert!(
        xds::render_text(findings, text).len() < 4000 * (findings.len() + 1),
        "a finding without measure"
    );
    assert!(xds::render_json(findings).starts_with('['));
}
