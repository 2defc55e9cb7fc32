//! What the cluster refuses: old versions, credentials, permissions, ports, quotas, a namespace on its way out.

use kube_api::{Config, Rule, Settle, Token};
use serde_json::{Value, json};

use crate::world::{World, blocking};

fn version(version: &str) -> Config {
    Config { version: version.to_owned(), ..Config::default() }
}

#[tokio::test]
async fn an_old_kubernetes_is_told_what_it_lacks() {
    let Some(world) = World::with("test", version("1.28.5")) else { return };
    world.loaded_node();
    blocking(move || world.refuses(&["deploy"], "1.28.5", "upgrade the cluster")).await;
    let Some(world) = World::with("test", version("1.28.5")) else { return };
    blocking(move || {
        world.refuses(&["deploy"], "1.29 or newer is needed, because the sidecars are native", "upgrade");
    })
    .await;
    let Some(world) = World::with("test", version("1.29.9")) else { return };
    world.loaded_node();
    blocking(move || {
        world.refuses(
            &["deploy"],
            "1.30 or newer is needed, because the manifests use the sleep action",
            "upgrade",
        );
    })
    .await;
}

#[tokio::test]
async fn refused_credentials_are_told_from_missing_permissions() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    blocking(move || {
        world.write_kubeconfig("wrong");
        world.refuses(&["deploy"], "does not accept the credentials of the context test", "renew them");
        world.write_kubeconfig("reader");
        let reader = Token::service_account("reader", "default", "reader").allow(Rule::new(
            "*",
            "*",
            &["get", "list"],
        ));
        world.server.faults().set_tokens(vec![Token::admin("secret"), reader]);
        world.refuses(&["deploy"], "you may not create configmaps in namespace petmesh", "administrator");
    })
    .await;
}

// Who has one namespace and nothing else sees no nodes and no other namespaces.
#[tokio::test]
async fn the_administrator_of_one_namespace_can_deploy_there() {
    let settings = Config { settle: Settle::RolledOut, ..Config::default() };
    let Some(mut world) = World::with("test", settings) else { return };
    let mine = Token::service_account("mine", "team", "me").allow(Rule::new("team", "*", &["*"]));
    world.server.faults().set_tokens(vec![Token::admin("secret"), mine]);
    world.write_kubeconfig("mine");
    world
        .store()
        .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}))
        .unwrap();
    world.set("NAMESPACE", "team");
    world.set("IMAGES", "loaded");
    blocking(move || {
        let outcome = world.run(&["deploy"]);
        outcome.is_fine();
        assert!(outcome.err.contains("the nodes cannot be listed"), "{}", outcome.err);
        assert_eq!(world.store().list("deployments", Some("team")).len(), 4);
        // What holds for every pod of a namespace is not ours to set in somebody else's.
        assert!(outcome.out.contains("it gets no quota and no default limits"), "{}", outcome.out);
        for kind in ["resourcequotas", "limitranges"] {
            assert_eq!(world.store().list(kind, Some("team")).len(), 0, "{kind}");
        }
        for policy in world.store().list("networkpolicies", Some("team")) {
            assert_ne!(policy["spec"]["podSelector"], json!({}), "{}", policy["metadata"]["name"]);
        }
        world.run(&["undeploy"]).is_fine();
        assert_eq!(world.store().list("deployments", Some("team")).len(), 0);
        let namespace = world.store().get("namespaces", "", "team").expect("it is not ours to delete");
        assert_eq!(namespace["metadata"]["labels"]["app.kubernetes.io/part-of"], json!(null));
    })
    .await;
}

#[tokio::test]
async fn a_node_port_of_another_service_is_named_with_its_owner() {
    let Some(world) = World::new("kind-pets") else { return };
    world.loaded_node();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop", "namespace": "other"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}});
    world.store().apply(service).unwrap();
    blocking(move || {
        world.refuses(&["deploy"], "node port 30080 is taken by the Service other/shop", "OVERLAY=generic");
    })
    .await;
}

#[tokio::test]
async fn a_quota_that_is_too_small_is_named_with_both_figures() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "petmesh", "labels": {"app.kubernetes.io/part-of": "petmesh"}}});
    world.store().apply(namespace).unwrap();
    let quota = |hard: Value| {
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": "petmesh"},
            "spec": {"hard": hard}})
    };
    blocking(move || {
        for (key, allowed) in [("requests.cpu", "50m"), ("limits.memory", "64Mi"), ("pods", "3")] {
            world.store().apply(quota(json!({key: allowed}))).unwrap();
            let problem = format!("quota is exceeded: small allows {allowed} of {key}, and ");
            world.refuses(&["deploy"], &problem, "kubectl edit resourcequota");
        }
        let wide = json!({"requests.cpu": "4", "limits.memory": "2Gi", "pods": "40"});
        world.store().apply(quota(wide)).unwrap();
        world.run(&["preflight"]).is_fine();
    })
    .await;
}

#[tokio::test]
async fn a_terminating_namespace_is_waited_for_and_then_explained() {
    let Some(mut world) = World::new("test") else { return };
    world.loaded_node();
    world.set("TIMEOUT", "1");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "petmesh", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["shop.example/keep"]},
        "status": {"phase": "Terminating", "conditions": [{"type": "NamespaceFinalizersRemaining", "status": "True",
            "message": "Some content in the namespace has finalizers remaining"}]}});
    world.store().apply(namespace).unwrap();
    blocking(move || {
        for command in ["deploy", "undeploy"] {
            world.refuses(&[command], "shop.example/keep", "finalizers");
            world.refuses(&[command], "Some content in the namespace has finalizers", "finalizers");
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_dry_run_refuses_leaves_nothing_behind() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    // A real client against the server, but for dry runs, which an admission webhook refuses.
    let kubectl = world.real("kubectl");
    world.tool(
        "kubectl",
        &format!(
            "case \"$*\" in *rendering.yaml*--dry-run=server*) \
             echo 'Error from server (Forbidden): error when creating \"x.yaml\": admission webhook \"no.example\" denied the request: not here' >&2; exit 1;; \
             esac\nexec {kubectl} \"$@\""
        ),
    );
    blocking(move || {
        world
            .run(&["deploy"])
            .is_refused("admission webhook \"no.example\" denied the request", "nothing was applied");
        assert!(world.store().get("namespaces", "", "petmesh").is_none());
        assert!(world.store().list("deployments", None).is_empty());
        assert!(world.store().list("configmaps", None).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_namespace_that_enforces_more_is_refused_by_its_warning() {
    let Some(world) = World::new("test") else { return };
    world.loaded_node();
    let kubectl = world.real("kubectl");
    world.tool(
        "kubectl",
        &format!(
            "case \"$*\" in *rendering.yaml*--dry-run=server*) \
             echo 'Warning: would violate PodSecurity \"restricted:latest\": runAsNonRoot != true' >&2;; \
             esac\nexec {kubectl} \"$@\""
        ),
    );
    blocking(move || {
        world
            .run(&["deploy"])
            .is_refused("would violate PodSecurity \"restricted:latest\"", "nothing was applied");
        assert!(world.store().list("deployments", None).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_server_without_a_readable_openapi_document_is_deployed_to_all_the_same() {
    let Some(world) = World::with("test", Config { settle: Settle::RolledOut, ..Config::default() }) else {
        return;
    };
    world.loaded_node();
    let kubectl = world.real("kubectl");
    world.tool(
        "kubectl",
        &format!(
            "case \"$*\" in *--validate=strict*) \
             echo 'error: error validating data: failed to download openapi: no' >&2; exit 1;; esac\nexec {kubectl} \"$@\""
        ),
    );
    blocking(move || {
        let outcome = world.run(&["deploy"]);
        outcome.is_fine();
        assert!(outcome.err.contains("note: the OpenAPI document of"), "{}", outcome.err);
        assert_eq!(world.store().list("deployments", Some("petmesh")).len(), 4);
    })
    .await;
}
