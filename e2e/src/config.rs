//! The shipped Envoy files, and changes of them as trees.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The services that have an Envoy file.
pub const SERVICES: [&str; 3] = ["ingress", "petstore", "pet"];

/// Where the shipped files are.
#[must_use]
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config")
}

/// The limit of a program's container in the manifests of deploy/, in MiB.
#[must_use]
pub fn memory_limit(program: &str) -> i64 {
    let manifest = match program {
        "ingress" => "components/ingress/ingress.yaml".to_owned(),
        "proxy" => "components/sidecar/pod.yaml".to_owned(),
        app => format!("base/{app}.yaml"),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(manifest);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let limits = text.lines().find_map(|line| line.trim().strip_prefix("limits:"));
    let limit = limits.and_then(|limits| limits.split("memory: ").nth(1)?.split("Mi").next()?.parse().ok());
    limit.unwrap_or_else(|| panic!("{}: no line `limits: {{ memory: …Mi }}`", path.display()))
}

/// Writes every shipped file into a new folder, changed by the test if it wants so.
pub fn write(to: &Path, edit: Option<fn(&mut Value)>) {
    std::fs::create_dir(to).expect("a folder for the configuration");
    for service in SERVICES {
        let name = format!("{service}.yaml");
        std::fs::write(to.join(&name), text(service, edit)).expect("the configuration is written");
    }
}

/// One shipped file, changed by the test if it wants so.
#[must_use]
pub fn text(service: &str, edit: Option<fn(&mut Value)>) -> String {
    let path = shipped().join(format!("{service}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match edit {
        Some(edit) => edited(service, &text, &edit),
        None => text,
    }
}

/// An Envoy file after a change of its tree. JSON is YAML.
#[must_use]
pub fn edited(name: &str, text: &str, edit: &(dyn Fn(&mut Value) + Sync)) -> String {
    let read = xds::read_bootstrap(name, text);
    let mut tree =
        xds::to_json(&read.unwrap_or_else(|found| panic!("{}", xds::render_text(&found, text))).message);
    edit(&mut tree);
    serde_json::to_string_pretty(&tree).expect("a tree is JSON")
}

/// Changes the tree of a file in one step.
pub fn edit(path: &Path, edit: &(dyn Fn(&mut Value) + Sync)) {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    replace(path, &edited(&name, &text, edit));
}

/// Puts a new file in the place of the old one in one step, as the kubelet does with a changed ConfigMap.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("the new file is written");
    std::fs::rename(&new, path).expect("the new file takes the old one's place");
}
