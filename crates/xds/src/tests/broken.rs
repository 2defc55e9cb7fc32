//! Broken files and their diagnostics, committed beside them (`UPDATE=1` writes them anew), and what Envoy 1.40 says of the same
//! files (`UPDATE_ENVOY=/path/to/envoy` asks it again).

use super::{assert_committed, data, data_path};
use crate::{read_bootstrap, render_json, render_text};

/// Files of the reader, and files that only the proxy's builder finds broken (its tests compare their diagnostics).
const FOLDERS: [&str; 2] = ["tests/data/broken", "../../proxy/tests/data/broken"];
/// The files of docs/errors.md.
const SHOWN: [&str; 10] = [
    "typo-in-match",
    "duration-in-milliseconds",
    "switch-as-cluster",
    "bad-indentation",
    "status-as-redirect-code",
    "many-errors",
    "unknown-cluster",
    "domain-twice-in-other-case",
    "append-twice",
    "errors-of-every-station",
];
/// Most of Envoy's answer that is kept: it may hold the whole configuration.
const LONGEST: usize = 700;

fn folder(folder: &str) -> String {
    format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"))
}

/// The names of the files of a folder, without their ending.
fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(self::folder(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned)).collect();
    names.sort();
    names
}

fn content(name: &str, ending: &str) -> String {
    let path = |folder| format!("{}/{name}.{ending}", self::folder(folder));
    let read = FOLDERS.iter().find_map(|folder| std::fs::read_to_string(path(folder)).ok());
    read.unwrap_or_else(|| panic!("{name}.{ending} is missing"))
}

#[test]
fn each_broken_file_gets_its_diagnostics() {
    let names = names(FOLDERS[0]);
    assert!(names.len() >= 50, "{names:?}");
    for name in names {
        let file = format!("{name}.yaml");
        let text = data(&format!("broken/{file}"));
        let findings = read_bootstrap(&file, &text).expect_err(&name);
        let path = data_path(&format!("broken/{name}.txt"));
        assert_committed(&path, &render_text(&findings, &text));
    }
}

/// What Envoy says of a file, without times, process numbers and places in its source.
fn ask_envoy(envoy: &str, folder: &str, file: &str) -> String {
    let output = std::process::Command::new(envoy)
        .args(["--mode", "validate", "--disable-hot-restart", "-l", "critical", "-c", file])
        .current_dir(self::folder(folder))
        .output()
        .unwrap();
    let all = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&all);
    let said = |line: &str| match line.starts_with('[') {
        true => line.splitn(3, "] ").nth(2).unwrap_or(line).to_owned(),
        false => line.trim_end().to_owned(),
    };
    let lines: Vec<_> = text.lines().map(said).filter(|line| !line.is_empty()).collect();
    let text = lines.join("\n");
    let cut: String = text.chars().take(LONGEST).collect();
    let rest = text.chars().count() - cut.chars().count();
    if rest == 0 { format!("{cut}\n") } else { format!("{cut}… ({rest} more characters)\n") }
}

#[test]
fn beside_each_broken_file_stands_what_envoy_says() {
    let mut count = 0;
    for folder in FOLDERS {
        for name in names(folder) {
            let path = format!("{}/{name}.envoy", self::folder(folder));
            if let Ok(envoy) = std::env::var("UPDATE_ENVOY") {
                std::fs::write(&path, ask_envoy(&envoy, folder, &format!("{name}.yaml"))).unwrap();
            }
            let said = std::fs::read_to_string(&path).expect(&path);
            assert!(said.contains("error") || said.contains("OK"), "{path}: {said}");
            assert!(!said.contains(env!("CARGO_MANIFEST_DIR")), "{path} names a path of a machine");
            assert!(content(&name, "txt").contains("error["), "{name}");
            count += 1;
        }
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn the_page_of_errors_is_up_to_date() {
    let mut page = "# Ten broken files, and what is said of them\n\nPrinted from `crates/xds/tests/data/broken` and `proxy/tests/data/broken`, \
        which hold more; do not edit (`UPDATE=1 cargo test -p xds`\nwrites it anew). Envoy's answers are those of Envoy 1.40 in `--mode validate`, \
        without time and place in its source, cut where they\nprint the configuration.\n"
        .to_owned();
    for name in SHOWN {
        let (text, ours, envoys) = (content(name, "yaml"), content(name, "txt"), content(name, "envoy"));
        let block = |kind: &str, text: &str| format!("\n```{kind}\n{}\n```\n", text.trim_end());
        page += &format!("\n## {name}\n{}", block("yaml", &text));
        page += &format!("\n`petmesh config validate`:\n{}", block("text", &ours));
        page += &format!("\nEnvoy:\n{}", block("text", &envoys));
    }
    assert_committed(&folder("../../docs/errors.md"), &page);
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
