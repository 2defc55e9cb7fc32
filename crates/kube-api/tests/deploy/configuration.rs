//! Envoy files with errors: found before they are applied, and shown while a proxy serves on with an old one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use kube_api::{Config, Settle};
use serde_json::json;

use crate::world::{TAG, World, blocking};

fn deployable(context: &str) -> Option<World> {
    let world = World::with(context, Config { settle: Settle::RolledOut, ..Config::default() })?;
    world.loaded_node();
    Some(world)
}

/// kubectl, but for logs, which kube-api has none of.
fn logs(world: &World, text: &str) {
    fs::write(world.path("logs"), text).unwrap();
    let (kubectl, logs) = (world.real("kubectl"), world.path("logs"));
    let script =
        format!("case \"$*\" in *' logs '*) cat '{}'; exit;; esac\nexec {kubectl} \"$@\"", logs.display());
    world.tool("kubectl", &script);
}

const OLD: &str = "[pod/pet-1/proxy] 2026-01-01T00:00:00.1Z ERROR proxy::control::writer: configuration refused, the old one stays\n\
    [pod/pet-1/proxy] error[unknown-field]: unknown field `adress` in Listener\n\
    [pod/pet-1/proxy]  --> /etc/envoy/envoy.yaml:14:5\n\
    [pod/pet-1/proxy]   |\n";
const REPEATED: &str = "[pod/pet-1/proxy] 2026-01-01T00:01:00.1Z ERROR proxy::control::writer: \
    configuration refused: /etc/envoy/envoy.yaml:14:5: unknown field `adress` in Listener\n";
const ACCEPTED: &str = "[pod/pet-1/proxy] 2026-01-01T00:02:00.1Z  INFO proxy::control::writer: configuration changed file=\"/etc/envoy/envoy.yaml\"\n";
/// What a client may write into an access log.
const ACCESS: &str =
    "[pod/pet-2/proxy] [2026-01-01T00:00:00.1Z] \"GET /configuration refused HTTP/1.1\" 200\n";

#[tokio::test]
async fn status_names_each_proxy_that_refused_its_configuration_and_the_first_error() {
    for text in [OLD.to_owned(), REPEATED.to_owned(), format!("{ACCEPTED}{REPEATED}{ACCESS}")] {
        let Some(world) = deployable("test") else { return };
        logs(&world, &text);
        blocking(move || {
            let deployed = world.run(&["deploy"]);
            deployed.is_fine();
            assert!(deployed.out.contains("! pet-1 (proxy): configuration refused: "), "{}", deployed.out);
            assert!(deployed.err.contains("which a pod that starts would not survive"), "{}", deployed.err);
            let status = world.run(&["status"]);
            status.is_refused("1 proxy refuses its configuration", "make deploy puts the files");
            status.is_refused("", "each pod that starts with the new one will crash");
            let wanted = "! pet-1 (proxy): configuration refused: \
                /etc/envoy/envoy.yaml:14:5: unknown field `adress` in Listener";
            assert!(status.out.contains(wanted), "{}", status.out);
            assert!(!status.out.contains("! pet-2"), "{}", status.out);
        })
        .await;
    }
}

#[tokio::test]
async fn a_proxy_that_took_a_later_configuration_over_is_well() {
    let Some(world) = deployable("test") else { return };
    logs(&world, &format!("{OLD}{REPEATED}{ACCEPTED}{ACCESS}"));
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        let status = world.run(&["status"]);
        status.is_fine();
        assert!(!status.out.contains("! "), "{}", status.out);
    })
    .await;
}

#[tokio::test]
async fn the_config_map_to_correct_is_named() {
    let Some(world) = deployable("test") else { return };
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        let pods = world.store().list("pods", Some("petmesh"));
        let name = |pod: &serde_json::Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        let pod = pods.iter().map(name).find(|name| name.starts_with("ingress-")).unwrap();
        logs(&world, &REPEATED.replace("pet-1/proxy", &format!("{pod}/ingress")));
        let status = world.run(&["status"]);
        status.is_refused("1 proxy refuses", "edit configmap envoy-ingress-");
        assert!(status.out.contains("configuration refused, config map envoy-ingress-"), "{}", status.out);
    })
    .await;
}

/// An archive of the proxy whose program is this script.
fn proxy(world: &World, script: &str) {
    let folder = world.path("layer");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("proxy"), script).unwrap();
    fs::set_permissions(folder.join("proxy"), fs::Permissions::from_mode(0o555)).unwrap();
    let tar = |into: &str, files: &[&str]| {
        let made =
            Command::new("tar").arg("-cf").arg(world.path(into)).arg("-C").arg(&folder).args(files).status();
        assert!(made.unwrap().success());
    };
    tar("layer/layer.tar", &["proxy"]);
    let manifest = json!([{"Config": "config.json", "RepoTags": [format!("petmesh/proxy:{TAG}")], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(folder.join("config.json"), json!({"architecture": "amd64"}).to_string()).unwrap();
    tar("images/proxy.tar", &["manifest.json", "config.json", "layer.tar"]);
}

#[tokio::test]
async fn every_envoy_file_is_read_by_the_proxy_of_the_images_before_anything_is_applied() {
    let Some(world) = deployable("test") else { return };
    // A proxy that refuses the file of petstore.
    let calls = world.path("validated");
    proxy(
        &world,
        &format!(
            "#!/usr/bin/env bash\n[ \"$1\" != --version ] || exit 0\necho \"$*\" >>'{}'\n\
             if grep '^  cluster: petstore$' \"$4\" >/dev/null; then\n\
             printf 'error[unknown-field]: unknown field `adress`\\n --> %s:7:3\\n' \"$4\"; exit 1; fi\n",
            calls.display()
        ),
    );
    blocking(move || {
        let outcome = world.run(&["deploy"]);
        outcome.is_refused("deploy/config/petstore.yaml:7:3: unknown field `adress`", "nothing was applied");
        assert_eq!(fs::read_to_string(&calls).unwrap().lines().count(), 3, "pet, petstore and the ingress");
        assert!(world.store().get("namespaces", "", "petmesh").is_none());
    })
    .await;
}
