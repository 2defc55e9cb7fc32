//! Which way the images get to the nodes is known before anything is built, and which processor they
//! are for; whether they arrived is known afterwards.

use std::fs;

use kube_api::{Config, Settle};
use serde_json::{Value, json};

use crate::world::{NAMES, TAG, World, blocking};

fn settled(how: Settle) -> Config {
    Config { settle: how, ..Config::default() }
}

type Case = (&'static str, fn(&World), &'static str, &'static str);

/// Two containerds answer; the kubelet reports an image of the second.
fn two_containerds(world: &World) {
    world.tool("hostname", "echo node-1");
    let kubelets = world.socket("kubelet");
    let ctr = format!("case \"$*\" in *'{kubelets}'*'images ls'*) echo registry.k8s.io/pause:3.10;; esac");
    world.tool("ctr", &ctr);
    world.node(|node| {
        node["status"]["images"] = json!([{"names": ["registry.k8s.io/pause:3.10"], "sizeBytes": 1}]);
    });
}

#[tokio::test]
async fn of_two_containerds_the_one_that_the_kubelet_uses_gets_the_images() {
    let Some(world) = World::with("test", settled(Settle::RolledOut)) else { return };
    two_containerds(&world);
    blocking(move || {
        let outcome = world.run(&["deploy"]);
        outcome.is_fine();
        let imports: Vec<_> = world.calls("ctr").into_iter().filter(|call| call.contains("import")).collect();
        assert_eq!(imports.len(), NAMES.len(), "{imports:?}");
        assert!(imports.iter().all(|call| call.contains(&world.socket("kubelet"))), "{imports:?}");
    })
    .await;
}

#[tokio::test]
async fn images_in_the_wrong_containerd_are_told_with_a_remedy_that_is_no_loop() {
    let Some(mut world) = World::with("test", settled(Settle::Stuck("ErrImagePull"))) else { return };
    two_containerds(&world);
    let dockers = world.socket("docker");
    world.set("CONTAINERD_ADDRESS", &dockers);
    world.set("TIMEOUT", "1");
    blocking(move || {
        let unseen = format!("does not report petmesh/pet:{TAG}");
        world.run(&["load"]).is_refused(&unseen, "make deploy CONTAINERD_ADDRESS=/path");
        let outcome = world.run(&["deploy"]);
        let last = outcome.err.lines().last().unwrap();
        let wanted = format!("ctr at {dockers} took it and the kubelet does not find it");
        assert!(last.contains(&wanted) && last.contains("CONTAINERD_ADDRESS=/path"), "{last}");
        assert!(!last.contains("make deploy loads it"), "{last}");
    })
    .await;
}

#[tokio::test]
async fn each_container_runtime_of_the_node_has_its_loader() {
    let of = |image: &str, runtime: &str| match runtime {
        "skopeo" => {
            format!("copy docker-archive:{image}.tar containers-storage:docker.io/petmesh/{image}:{TAG}")
        }
        "podman" | "docker" => format!("load -i {image}.tar"),
        _ => format!("ctr images import {image}.tar"),
    };
    let nodes = [
        ("docker://28.0", "v1.36.0", "docker"),
        ("cri-o://1.36", "v1.36.0", "podman"),
        ("cri-o://1.36", "v1.36.0", "skopeo"),
        ("containerd://2.1-k3s1", "v1.36.0+k3s1", "k3s"),
        ("docker://28.0", "v1.36.0+k3s1", "docker"),
    ];
    for (runtime, kubelet, tool) in nodes {
        let Some(world) = World::new("test") else { return };
        world.tool("hostname", "echo node-1");
        world.loader(tool, "sds.tar", "");
        world.node(|node| {
            node["status"]["nodeInfo"]["containerRuntimeVersion"] = json!(runtime);
            node["status"]["nodeInfo"]["kubeletVersion"] = json!(kubelet);
        });
        blocking(move || {
            world.run(&["load"]).is_fine();
            let folder = format!("{}/", world.path("images").display());
            let calls: Vec<_> = world.calls(tool).iter().map(|call| call.replace(&folder, "")).collect();
            for name in NAMES {
                assert!(calls.contains(&of(name, tool)), "{tool} {name}: {calls:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn that_no_way_leads_to_the_nodes_is_known_before_anything_is_built() {
    let on_node: fn(&World) = |world| world.tool("hostname", "echo node-1");
    // A context, the tools of this machine, the node's container runtime, and why no way leads there.
    let cases: [Case; 9] = [
        ("test", |_| {}, "", "this machine is not the node node-1"),
        ("test", on_node, "containerd://2.1", "ctr is missing"),
        ("test", on_node, "cri-o://1.36", "podman is missing"),
        ("test", on_node, "docker://28.0", "docker is missing"),
        ("minikube", |_| {}, "", "minikube is missing"),
        (
            "minikube",
            |world| world.tool("minikube", "echo 'Profile \"minikube\" not found' >&2; exit 1"),
            "",
            "Profile \"minikube\" not found",
        ),
        ("kind-pets", |world| world.tool("kind", ""), "", "kind knows no cluster pets"),
        (
            "test",
            |world| {
                world.tool("hostname", "echo node-1");
                world.tool("ctr", "echo 'ctr: failed to dial' >&2; exit 1");
            },
            "",
            "kubelet.sock: ctr: failed to dial, there is no socket /absent.sock (CONTAINERD_ADDRESS names another)",
        ),
        (
            "test",
            |world| {
                two_containerds(world);
                world.tool("ctr", "");
            },
            "",
            "kubelet.sock has none of the images that the kubelet of node-1 reports",
        ),
    ];
    for (context, tools, runtime, reason) in cases {
        let Some(world) = World::new(context) else { return };
        tools(&world);
        world.node(|node| {
            node["status"]["nodeInfo"]["containerRuntimeVersion"] = json!(runtime);
            node["status"]["images"] = json!([{"names": ["registry.k8s.io/pause:3.10"], "sizeBytes": 1}]);
        });
        fs::remove_file(world.path("images/list")).unwrap();
        blocking(move || {
            world.refuses(&["deploy", "--build"], reason, "REGISTRY=");
            world.refuses(&["preflight"], reason, "IMAGES=loaded");
            assert_eq!(world.calls("build.sh"), [""; 0], "nothing is built");
        })
        .await;
    }
}

#[tokio::test]
async fn a_deploy_that_builds_says_nothing_twice_and_notes_nothing() {
    let Some(world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.tool("kind", "echo pets-control-plane");
    world.node(|_| {});
    fs::rename(world.path("images/list"), world.path("list")).unwrap();
    let moved = format!(
        "[ \"$*\" = --check ] || mv '{}' '{}'",
        world.path("list").display(),
        world.path("images/list").display()
    );
    world.tool("build.sh", &moved);
    blocking(move || {
        let outcome = world.run(&["deploy", "--build"]);
        outcome.is_fine();
        assert_eq!(world.calls("build.sh"), ["--check", ""]);
        assert_eq!(outcome.err, "");
        let mut lines: Vec<_> = outcome.out.lines().collect();
        let all = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), all, "{}", outcome.out);
    })
    .await;
}

#[tokio::test]
async fn images_are_built_for_the_processor_of_the_nodes() {
    let Some(mut world) = World::new("kind-pets") else { return };
    world.tool("kind", "echo pets-control-plane");
    let arm = |name: &'static str| {
        move |node: &mut Value| {
            node["metadata"]["name"] = json!(name);
            node["status"]["nodeInfo"]["architecture"] = json!("arm64");
        }
    };
    world.node(arm("node-1"));
    world.tool("build.sh", "[ \"$ARCH\" != arm64 ] || { echo 'no library: rustup target add' >&2; exit 1; }");
    blocking(move || {
        let problem = "cannot be built for arm64 on this machine: no library: rustup target add";
        world.refuses(&["deploy", "--build"], problem, "on a machine that can");
        assert_eq!(world.calls("build.sh"), ["--check"]);
        world.node(|node| node["metadata"]["name"] = json!("node-2"));
        let several = "of several architectures (arm64 amd64)";
        world.refuses(&["deploy", "--build"], several, "ARCH=arm64");
        world.set("ARCH", "amd64");
        world.run(&["preflight"]).is_fine();
        world.set("ARCH", "riscv64");
        world.refuses(&["deploy", "--build"], "ARCH=riscv64", "amd64 or arm64");
    })
    .await;
}

#[tokio::test]
async fn pods_keep_to_the_nodes_of_the_processor_that_is_named() {
    let Some(mut world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    world.node(|node| {
        node["metadata"]["name"] = json!("raspberry");
        node["status"]["nodeInfo"]["architecture"] = json!("arm64");
    });
    world.set("ARCH", "amd64");
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        for deployment in world.store().list("deployments", Some("petmesh")) {
            let selector = &deployment["spec"]["template"]["spec"]["nodeSelector"];
            assert_eq!(*selector, json!({"kubernetes.io/arch": "amd64"}));
        }
    })
    .await;
}

#[tokio::test]
async fn a_registry_takes_the_images_for_nodes_that_nothing_else_reaches() {
    let Some(mut world) = World::with("test", settled(Settle::RolledOut)) else { return };
    world.node(|_| {});
    world.node(|node| node["metadata"]["name"] = json!("node-2"));
    world.set("REGISTRY", "registry.example/team");
    blocking(move || {
        world.refuses(&["deploy"], "neither skopeo nor crane nor docker", "IMAGES=loaded");
        world.tool("skopeo", "[ \"$1\" != inspect ]");
        world.run(&["deploy"]).is_fine();
        let pushed = format!("/pet.tar docker://registry.example/team/petmesh/pet:{TAG}");
        assert!(world.calls("skopeo").iter().any(|call| call.ends_with(&pushed)));
        let pet = world.store().get("deployments", "petmesh", "pet").unwrap();
        let image = format!("registry.example/team/petmesh/pet:{TAG}");
        assert_eq!(pet["spec"]["template"]["spec"]["containers"][0]["image"], image);
    })
    .await;
}
