//! What is wrong with the machine, the kubeconfig, the cluster or its nodes: one line each, and nothing stored.

use std::fs;

use serde_json::json;

use crate::world::{World, blocking};

#[tokio::test]
async fn without_kubectl_it_says_how_to_get_one() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    world.without_tool("kubectl");
    blocking(move || {
        for command in ["preflight", "deploy", "undeploy", "url", "status", "logs"] {
            world.refuses(&[command], "kubectl is missing", "https://kubernetes.io/docs/tasks/tools/");
        }
    })
    .await;
}

#[tokio::test]
async fn an_old_kubectl_is_refused() {
    let Some(world) = World::new("test") else { return };
    world.tool("kubectl", "echo 'Client Version: v1.20.2'");
    blocking(move || world.refuses(&["deploy"], "kubectl 1.20 is too old", "1.27")).await;
}

#[tokio::test]
async fn without_a_cluster_the_server_is_named() {
    let Some(world) = World::new("minikube") else { return };
    let text = fs::read_to_string(world.path("kubeconfig")).unwrap();
    let address = format!("https://{}", world.server.tls_addr().unwrap());
    fs::write(world.path("kubeconfig"), text.replace(&address, "https://127.0.0.1:1")).unwrap();
    blocking(move || {
        for command in ["preflight", "deploy", "undeploy", "url", "status", "logs"] {
            world.refuses(&[command], "https://127.0.0.1:1 (context minikube)", "minikube start");
        }
    })
    .await;
}

#[tokio::test]
async fn a_kubeconfig_without_contexts_or_with_another_one_is_refused() {
    let Some(mut world) = World::new("test") else { return };
    blocking(move || {
        world.set("CONTEXT", "other");
        world.refuses(&["deploy"], "no context other", "one of: test");
        world.set("CONTEXT", "");
        let text = fs::read_to_string(world.path("kubeconfig")).unwrap();
        fs::write(
            world.path("kubeconfig"),
            text.replace(r#""current-context": "test""#, r#""current-context": """#),
        )
        .unwrap();
        world.refuses(&["deploy"], "no context is chosen", "set CONTEXT to one of: test");
        fs::remove_file(world.path("kubeconfig")).unwrap();
        world.refuses(&["deploy"], "no cluster is configured", "minikube start");
    })
    .await;
}

#[tokio::test]
async fn what_looks_like_production_needs_its_name_a_second_time() {
    for context in ["prod", "eu-prod-1", "shop_live", "gke_shop_europe_a", "arn:aws:eks:eu:1:cluster/shop"] {
        let Some(mut world) = World::new(context) else { return };
        let name = context.to_owned();
        blocking(move || {
            world.refuses(&["deploy"], "looks like production", &format!("CONFIRM='{name}'"));
            world.refuses(&["undeploy"], "looks like production", "choose another CONTEXT");
            world.set("CONFIRM", &name);
            world.refuses(&["status"], "there is no mesh", "make deploy");
        })
        .await;
    }
}

#[tokio::test]
async fn names_that_only_contain_such_words_are_fine() {
    for context in
        ["olive", "delivery", "product-dev", "kubernetes-admin@kubernetes", "default", "docker-desktop"]
    {
        let Some(world) = World::new(context) else { return };
        blocking(move || world.refuses(&["status"], "there is no mesh", "make deploy")).await;
    }
}

#[tokio::test]
async fn a_node_of_another_architecture_is_named() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    world.node(|node| {
        node["metadata"]["name"] = json!("raspberry");
        node["status"]["nodeInfo"]["architecture"] = json!("arm64");
    });
    blocking(move || {
        world.refuses(&["deploy"], "node raspberry is arm64 and the images are amd64", "ARCH=amd64");
    })
    .await;
}

#[tokio::test]
async fn a_cluster_whose_nodes_take_no_pods_is_refused() {
    let Some(world) = World::new("test") else { return };
    blocking(move || {
        world.refuses(&["deploy"], "has no node", "kubeadm join");
        world.node(|node| {
            node["status"]["conditions"][0] =
                json!({"type": "Ready", "status": "False", "message": "cni plugin not initialized"});
        });
        world.refuses(&["deploy"], "node node-1 is not ready (cni plugin not initialized)", "network plugin");
        world.node(|node| node["spec"]["unschedulable"] = json!(true));
        world.refuses(&["deploy"], "node node-1 is cordoned", "kubectl uncordon");
        let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        world.node(|node| node["spec"]["taints"] = taint);
        world.refuses(&["deploy"], "control-plane:NoSchedule", "minikube node add");
    })
    .await;
}

#[tokio::test]
async fn a_wrong_variable_is_named() {
    let Some(mut world) = World::new("test") else { return };
    world.loaded_node();
    blocking(move || {
        world.set("OVERLAY", "nowhere");
        world.refuses(&["deploy"], "no overlay nowhere", "minikube");
        world.set("OVERLAY", "");
        world.set("NAMESPACE", "Pet Mesh");
        world.refuses(&["deploy"], "NAMESPACE=Pet Mesh", "lower-case");
        world.set("NAMESPACE", "petmesh");
        world.set("TIMEOUT", "soon");
        world.refuses(&["deploy"], "TIMEOUT=soon", "TIMEOUT=180");
        world.set("TIMEOUT", "20");
        assert_eq!(world.run(&["explode"]).code, 2);
        assert_eq!(world.run(&[]).code, 2);
        world.run(&["help"]).is_fine();
    })
    .await;
}
