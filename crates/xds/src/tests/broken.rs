//! Broken files and their diagnostics, committed beside them (`UPDATE=1` writes them anew).

use super::{assert_committed, data, data_path};
use crate::{read_bootstrap, render_json, render_text};

#[test]
fn each_broken_file_gets_its_diagnostics() {
    let mut names: Vec<String> = std::fs::read_dir(data_path("broken"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let text = data(&format!("broken/{name}"));
        let findings = read_bootstrap(&name, &text).expect_err(&name);
        let path = data_path(&format!("broken/{}", name.replace(".yaml", ".txt")));
        assert_committed(&path, &render_text(&findings, &text));
    }
}

#[test]
fn json_has_every_member_and_null_for_the_absent() {
    let findings = read_bootstrap("envoy.yaml", "static_resources: {clusters: [{nam: pet}]}").unwrap_err();
    let json: serde_json::Value = serde_json::from_str(&render_json(&findings)).unwrap();
    let expected = serde_json::json!([{
        "file": "envoy.yaml", "line": 1, "column": 32, "path": "static_resources.clusters[0].nam",
        "severity": "error", "code": "unknown-field", "message": "unknown field `nam` in Cluster",
        "expected": null, "suggestion": "did you mean `name`?",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn columns_count_characters_and_not_bytes() {
    let text = "node: {id: \"señal\", clustre: x}\n";
    let findings = read_bootstrap("envoy.yaml", text).unwrap_err();
    assert_eq!(findings[0].column, Some(21));
}
