//! Images come to the nodes by the tool of each kind of cluster, once, or the user is told what to do.

use std::fs;

use serde_json::json;

use crate::world::{NAMES, TAG, World, blocking, reported};

#[tokio::test]
async fn without_images_it_says_how_to_build_them() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    fs::remove_file(world.path("images/list")).unwrap();
    blocking(move || world.refuses(&["deploy"], "images are not built", "make images")).await;
}

#[tokio::test]
async fn a_missing_loader_is_named() {
    for (context, tool) in
        [("minikube", "minikube"), ("kind-pets", "kind"), ("k3d-pets", "k3d"), ("docker-desktop", "docker")]
    {
        let Some(world) = World::new(context) else { return };
        world.node(|_| {});
        blocking(move || world.refuses(&["deploy"], &format!("{tool} is missing"), "IMAGES=loaded")).await;
    }
}

#[tokio::test]
async fn each_kind_of_cluster_has_its_loader_and_overlay() {
    let load = |tool: &str, name: &str| match tool {
        "minikube" => format!("-p pets image load {name}.tar"),
        "kind" => format!("load image-archive {name}.tar --name pets"),
        "k3d" => format!("image import {name}.tar -c pets"),
        _ => format!("load -i {name}.tar"),
    };
    let clusters = [
        ("pets", "minikube", "minikube"),
        ("kind-pets", "kind", "kind"),
        ("k3d-pets", "k3d", "k3s"),
        ("docker-desktop", "docker", "generic"),
    ];
    for (context, tool, overlay) in clusters {
        let Some(world) = World::new(context) else { return };
        world.loader(tool, "sds.tar", "case \"$*\" in *nodes*) echo pets-control-plane;; esac");
        world.node(|node| {
            if tool == "minikube" {
                node["metadata"]["labels"]["minikube.k8s.io/name"] = json!("pets");
            }
        });
        blocking(move || {
            let outcome = world.run(&["load"]);
            outcome.is_fine();
            assert!(outcome.out.contains(&format!("overlay:   {overlay}\n")), "{}", outcome.out);
            let folder = format!("{}/", world.path("images").display());
            let calls: Vec<_> = world.calls(tool).iter().map(|call| call.replace(&folder, "")).collect();
            for name in NAMES {
                assert!(calls.contains(&load(tool, name)), "{tool} {name}: {calls:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_node_reports_is_not_loaded_again() {
    let Some(world) = World::new("kind-pets") else { return };
    world.loader("kind", "load", "echo pets-control-plane");
    world.node(|node| node["status"]["images"] = reported(&NAMES[1..]));
    let loads = |world: &World| world.calls("kind").iter().filter(|call| call.starts_with("load")).count();
    blocking(move || {
        let outcome = world.run(&["load"]);
        outcome.is_fine();
        assert!(outcome.out.contains("4 on the nodes already, 1 loaded"), "{}", outcome.out);
        assert_eq!(loads(&world), 1, "{:?}", world.calls("kind"));
        world.loaded_node();
        world.run(&["load"]).is_fine();
        assert_eq!(loads(&world), 1, "all were there");
    })
    .await;
}

#[tokio::test]
async fn a_loader_that_fails_is_quoted() {
    let Some(world) = World::new("kind-pets") else { return };
    world.tool("kind", "echo 'no nodes found for cluster pets' >&2; exit 1");
    world.node(|_| {});
    blocking(move || world.refuses(&["deploy"], "no nodes found for cluster pets", "by hand")).await;
}

#[tokio::test]
async fn an_image_that_no_tool_can_bring_is_named_with_its_archive() {
    let Some(mut world) = World::new("test") else { return };
    world.set("TIMEOUT", "1");
    world.node(|node| node["status"]["images"] = reported(&NAMES[1..]));
    blocking(move || {
        let missing = format!("node node-1 does not have: petmesh/pet:{TAG}");
        world.refuses(&["deploy"], &missing, "sudo ctr -n k8s.io images import FILE");
        world.refuses(&["deploy"], &missing, "images/pet.tar");
        fs::remove_file(world.path("images/pet.tar")).unwrap();
        world.refuses(&["deploy"], "pet.tar is missing", "make images");
    })
    .await;
}

#[tokio::test]
async fn on_the_node_itself_containerd_gets_the_missing_ones() {
    let Some(world) = World::new("test") else { return };
    world.tool("hostname", "echo node-1");
    world.loader(
        "ctr",
        "sds.tar",
        &format!("case \"$*\" in *'images ls'*) echo docker.io/petmesh/pet:{TAG};; esac"),
    );
    world.node(|_| {});
    blocking(move || {
        world.run(&["load"]).is_fine();
        let imports: Vec<_> = world.calls("ctr").into_iter().filter(|call| call.contains("import")).collect();
        assert_eq!(imports.len(), NAMES.len() - 1, "{imports:?}");
        assert!(!imports.iter().any(|call| call.ends_with("/pet.tar")), "{imports:?}");
    })
    .await;
}

#[tokio::test]
async fn on_k3s_its_own_containerd_gets_them_or_the_command_is_printed() {
    let Some(world) = World::new("default") else { return };
    world.node(|node| node["status"]["nodeInfo"]["kubeletVersion"] = json!("v1.36.0+k3s1"));
    blocking(move || {
        world.refuses(&["deploy"], "node-1 does not have", "sudo k3s ctr images import FILE");
        world.tool("hostname", "echo node-1");
        world.loader("k3s", "sds.tar", "");
        world.run(&["load"]).is_fine();
        assert_eq!(
            world.calls("k3s").iter().filter(|call| call.starts_with("ctr images import")).count(),
            NAMES.len()
        );
    })
    .await;
}

#[tokio::test]
async fn who_says_that_they_are_loaded_is_believed() {
    let Some(mut world) = World::new("kind-pets") else { return };
    world.set("IMAGES", "loaded");
    world.node(|_| {});
    blocking(move || world.run(&["preflight"]).is_fine()).await;
}
