//! Precedence, the tutorial's file, and what errors say.

use std::path::Path;

use clap::CommandFactory;

use super::*;
use crate::translate::Family;

const TUTORIAL: &str = "kubernetes:
  namespace: envoy
  api:
    host: https://192.168.42.69:8443
  token:
    path: TOKEN
envoy:
  port: 10000
";

/// A directory that stands for the pod's file system.
struct Pod {
    files: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Pod {
    fn new() -> Self {
        Self { files: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    fn in_cluster() -> Self {
        let mut pod = Self::new();
        pod.variables.push(("KUBERNETES_SERVICE_HOST", "10.96.0.1".into()));
        pod.variables.push(("KUBERNETES_SERVICE_PORT", "443".into()));
        for (name, text) in [("token", "t"), ("ca.crt", "c"), ("namespace", "shop\n")] {
            pod.file(&format!("account/{name}"), text);
        }
        pod
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.files.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> Option<std::path::PathBuf> {
        Some(self.files.path().join(name))
    }

    fn settle(&self, arguments: &[&str]) -> Result<Settings, SettingsError> {
        let flags = Flags::try_parse_from([&["sds"], arguments].concat()).unwrap();
        let variable = |name: &str| Some(self.variables.iter().find(|(known, _)| *known == name)?.1.clone());
        let around = Surroundings { variable: &variable, service_account: self.files.path().join("account") };
        Settings::settle(&flags, &around)
    }

    fn error(&self, arguments: &[&str]) -> String {
        let error = self.settle(arguments).unwrap_err().to_string();
        error.replace(self.files.path().to_str().unwrap(), "DIR")
    }
}

#[test]
fn a_pod_needs_no_settings_at_all() {
    let pod = Pod::in_cluster();
    let settings = pod.settle(&[]).unwrap();
    assert_eq!(settings.listen.to_string(), "[::]:8080");
    assert_eq!(settings.rules, Rules { envoy_port: 10000, family: Family::Auto });
    assert_eq!(settings.fail_static, Duration::from_secs(300));
    assert_eq!(settings.kubernetes.api_host, "https://10.96.0.1:443");
    assert_eq!(settings.kubernetes.namespace, "shop");
    assert_eq!(settings.kubernetes.token_path, pod.path("account/token"));
    assert_eq!(settings.kubernetes.ca_path, pod.path("account/ca.crt"));
    assert!(!settings.kubernetes.all_namespaces);
}

#[test]
fn the_tutorials_file_works_as_printed() {
    let mut pod = Pod::new();
    let token = pod.file("volume/token", "t");
    pod.file("volume/ca.crt", "c");
    let file = pod.file("application.yml", &TUTORIAL.replace("TOKEN", &token));
    pod.variables.push(("CONFIG_PATH", file));
    let settings = pod.settle(&[]).unwrap();
    assert_eq!(settings.kubernetes.api_host, "https://192.168.42.69:8443");
    assert_eq!(settings.kubernetes.namespace, "envoy");
    assert_eq!(settings.kubernetes.token_path.as_deref(), Some(Path::new(&token)));
    assert_eq!(settings.kubernetes.ca_path, pod.path("volume/ca.crt"), "the authority beside the token");
}

#[test]
fn dotted_keys_and_json_are_the_same_settings() {
    let pod = Pod::in_cluster();
    for text in [
        "kubernetes.namespace: envoy\nenvoy.port: '15000'\n",
        "kubernetes: {namespace: envoy}\nenvoy: {port: 15000}\n",
        r#"{"kubernetes.namespace": "envoy", "envoy": {"port": 15000}}"#,
    ] {
        let settings = pod.settle(&["--config", &pod.file("sds.yaml", text)]).unwrap();
        assert_eq!(
            (settings.kubernetes.namespace.as_str(), settings.rules.envoy_port),
            ("envoy", 15000),
            "{text}"
        );
    }
}

#[test]
fn flag_over_variable_over_file_over_cluster() {
    let mut pod = Pod::in_cluster();
    let file = pod.file("sds.yaml", "kubernetes.namespace: file");
    let namespace = |pod: &Pod, arguments: &[&str]| pod.settle(arguments).unwrap().kubernetes.namespace;
    assert_eq!(namespace(&pod, &[]), "shop");
    assert_eq!(namespace(&pod, &["--config", &file]), "file");
    pod.variables.push(("KUBERNETES_NAMESPACE", "variable".into()));
    assert_eq!(namespace(&pod, &["--config", &file]), "variable");
    assert_eq!(namespace(&pod, &["--config", &file, "--kubernetes-namespace", "flag"]), "flag");
}

#[test]
fn the_variable_that_kubernetes_sets_beside_a_service_named_envoy_is_no_port() {
    let mut pod = Pod::in_cluster();
    pod.variables.push(("ENVOY_PORT", "tcp://10.0.0.1:9901".into()));
    assert_eq!(pod.settle(&[]).unwrap().rules.envoy_port, 10000);
}

#[test]
fn all_namespaces_is_a_switch() {
    let pod = Pod::in_cluster();
    let all = |arguments: &[&str]| pod.settle(arguments).unwrap().kubernetes.all_namespaces;
    assert!(all(&["--kubernetes-all-namespaces"]));
    assert!(!all(&["--kubernetes-all-namespaces=false"]));
    assert!(all(&["--config", &pod.file("sds.yaml", "kubernetes: {all-namespaces: true}")]));
}

#[test]
fn a_time_and_an_address_family_are_set_in_each_of_the_three_places() {
    let mut pod = Pod::in_cluster();
    let file = pod.file("sds.yaml", "fail-static-time-s: 60\naddress-family: ipv4\n");
    let of = |pod: &Pod, more: &[&str]| {
        let settings = pod.settle(&[&["--config", file.as_str()], more].concat()).unwrap();
        (settings.fail_static.as_secs(), settings.rules.family)
    };
    assert_eq!(of(&pod, &[]), (60, Family::Ipv4));
    pod.variables.push(("FAIL_STATIC_TIME_S", "0".into()));
    pod.variables.push(("ADDRESS_FAMILY", "ipv6".into()));
    assert_eq!(of(&pod, &[]), (0, Family::Ipv6));
    assert_eq!(
        of(&pod, &["--fail-static-time-s", "86400", "--address-family", "auto"]),
        (86_400, Family::Auto)
    );
    for (flag, value, remedy) in [
        ("--fail-static-time-s", "86401", "is no time; give seconds, from 0 to 86400"),
        ("--fail-static-time-s", "5m", "is no time; give seconds, from 0 to 86400"),
        ("--address-family", "IPv4", "is no address family; give auto, ipv4 or ipv6"),
    ] {
        let error = pod.settle(&[flag, value]).unwrap_err();
        assert_eq!(error.to_string(), format!("{flag}: '{value}' {remedy}"));
    }
}

#[test]
fn the_api_server_of_an_ipv6_cluster_stands_in_brackets() {
    let mut pod = Pod::in_cluster();
    pod.variables[0].1 = "fd00:10:96::1".into();
    let host = |pod: &Pod, arguments: &[&str]| pod.settle(arguments).unwrap().kubernetes.api_host;
    assert_eq!(host(&pod, &[]), "https://[fd00:10:96::1]:443");
    assert_eq!(host(&pod, &["--kubernetes-api-host", "https://[fd00::1]:6443"]), "https://[fd00::1]:6443");
    let error = pod.settle(&["--kubernetes-api-host", "https://fd00::1:6443"]).unwrap_err();
    assert!(error.to_string().contains("https://[fd00::1]:8443"), "{error}");
}

#[test]
fn errors_name_the_place_the_key_and_the_remedy() {
    let pod = Pod::in_cluster();
    let of = |text: &str| pod.error(&["--config", &pod.file("sds.yaml", text)]);
    for (text, expected) in [
        ("envoy: {port: 0}", "DIR/sds.yaml: `envoy.port`: '0' is no port; give a number from 1 to 65535"),
        (
            "kubernetes.api.host: 192.168.42.69:8443",
            "DIR/sds.yaml: `kubernetes.api.host`: '192.168.42.69:8443' is no URL; write it like https://192.168.42.69:8443 or https://[fd00::1]:8443",
        ),
        (
            "kubernetes: {api: {host: [a]}}",
            "DIR/sds.yaml has a list at `kubernetes.api.host`; give one value",
        ),
        ("envoy.port: 1\nenvoy: {port: 2}", "DIR/sds.yaml gives `envoy.port` twice; keep one"),
        ("just text", "DIR/sds.yaml holds no keys; expected `kubernetes.namespace: …` and the like"),
    ] {
        assert_eq!(of(text), expected);
    }
    assert!(of("kubernetes: {namespaces: x}").starts_with(
        "DIR/sds.yaml: `kubernetes.namespaces` is no setting of sds; known are listen, kubernetes.namespace"
    ));
    assert!(of("a: [").starts_with("DIR/sds.yaml is not YAML: "));
    assert!(
        of("kubernetes.token.path: /nowhere/token")
            .contains("`kubernetes.token.path`: '/nowhere/token' cannot be read")
    );
    assert!(pod.error(&["--config", "/nowhere/sds.yaml"]).starts_with("/nowhere/sds.yaml cannot be read: "));
}

#[test]
fn only_a_wrong_flag_is_wrong_usage() {
    let mut pod = Pod::in_cluster();
    let flag = pod.settle(&["--envoy-port", "x"]).unwrap_err();
    assert_eq!(flag.to_string(), "--envoy-port: 'x' is no port; give a number from 1 to 65535");
    assert!(flag.is_usage());
    pod.variables.push(("ENVOY_PORT", "x".into()));
    let variable = pod.settle(&[]).unwrap_err();
    assert!(variable.to_string().starts_with("variable ENVOY_PORT: 'x'"));
    assert!(!variable.is_usage());
}

#[test]
fn outside_a_cluster_the_api_server_must_be_named() {
    let error = Pod::new().error(&[]);
    for remedy in ["--kubernetes-api-host", "KUBERNETES_API_HOST", "`kubernetes.api.host`"] {
        assert!(error.contains(remedy), "{error}");
    }
}

#[test]
fn help_names_every_variable_and_key() {
    let help = Flags::command().render_long_help().to_string();
    for (_, key, variable, flag) in read::KEYS {
        assert!(help.contains(variable) && help.contains(key) && help.contains(flag), "{flag} in:\n{help}");
    }
}
