//! A deployment's life: it comes, is repeated, changes, is asked how it is, goes.

use std::fs;
use std::time::Instant;

use kube_api::{Config, Settle};
use serde_json::{Value, json};

use crate::world::{TAG, World, blocking};

fn settled(how: Settle) -> Config {
    Config { settle: how, ..Config::default() }
}

fn names(world: &World, kind: &str) -> Vec<String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    world.store().list(kind, Some("petmesh")).iter().map(name).collect()
}

#[tokio::test]
async fn deploy_creates_everything_and_again_changes_nothing() {
    let Some(world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    blocking(move || {
        let began = Instant::now();
        let first = world.run(&["deploy"]);
        println!("the first deploy took {:.1?}", began.elapsed());
        first.is_fine();
        for line in [
            "context:   kind-pets",
            "server:    https://127.0.0.1:",
            "namespace: petmesh",
            "overlay:   kind",
            "  namespace/petmesh created\n",
        ] {
            assert!(first.out.contains(line), "{line} is not in {}", first.out);
        }
        assert!(first.out.contains("ready: ingress 2/2, pet 2/2, petstore 2/2, sds 2/2"), "{}", first.out);
        let url = "curl 'http://192.0.2.7:30080/petstore/petstore/2?includePets=true'";
        assert!(first.out.trim_end().ends_with(url), "{}", first.out);
        assert_eq!(names(&world, "deployments"), ["ingress", "pet", "petstore", "sds"]);
        let pet = world.store().get("deployments", "petmesh", "pet").unwrap();
        assert_eq!(pet["spec"]["template"]["spec"]["containers"][0]["image"], format!("petmesh/pet:{TAG}"));
        assert_eq!(
            pet["spec"]["template"]["spec"]["initContainers"][0]["image"],
            format!("petmesh/proxy:{TAG}")
        );

        let before = world.store().resource_version();
        let began = Instant::now();
        let again = world.run(&["deploy"]);
        println!("the second deploy took {:.1?}", began.elapsed());
        again.is_fine();
        assert!(again.out.contains("applied: 0 changed, "), "{}", again.out);
        assert_eq!(world.store().resource_version(), before, "a second deploy changes nothing");
    })
    .await;
}

#[tokio::test]
async fn what_a_later_deploy_no_longer_has_is_deleted_and_what_others_have_stays() {
    let Some(world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        let labels = json!({"app.kubernetes.io/part-of": "petmesh", "app.kubernetes.io/managed-by": "kustomize"});
        let old = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "envoy-pet-old", "namespace": "petmesh", "labels": labels}});
        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "notes", "namespace": "petmesh"}});
        world.store().apply(old).unwrap();
        world.store().apply(other).unwrap();
        let outcome = world.run(&["deploy"]);
        outcome.is_fine();
        assert!(outcome.out.contains("no longer part of the mesh"), "{}", outcome.out);
        let left = names(&world, "configmaps");
        assert!(left.contains(&"notes".to_owned()) && !left.contains(&"envoy-pet-old".to_owned()), "{left:?}");

        let outcome = world.run(&["undeploy"]);
        outcome.is_fine();
        assert!(outcome.out.contains("holds what deploy did not create: ConfigMap/notes"), "{}", outcome.out);
        assert_eq!(names(&world, "configmaps"), ["notes"]);
        assert!(names(&world, "deployments").is_empty() && names(&world, "services").is_empty());
    })
    .await;
}

#[tokio::test]
async fn undeploy_leaves_nothing_and_then_has_nothing_to_do() {
    let Some(world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    let objects = |world: &World| {
        let kinds = [
            "namespaces",
            "nodes",
            "configmaps",
            "services",
            "deployments",
            "pods",
            "replicasets",
            "roles",
            "clusterroles",
            "clusterrolebindings",
        ];
        kinds.iter().map(|kind| world.store().list(kind, None).len()).collect::<Vec<_>>()
    };
    blocking(move || {
        let before = objects(&world);
        world.run(&["deploy"]).is_fine();
        assert_ne!(objects(&world), before);
        let outcome = world.run(&["undeploy"]);
        outcome.is_fine();
        assert!(outcome.out.contains("gone: namespace petmesh"), "{}", outcome.out);
        assert_eq!(objects(&world), before);
        assert!(!world.path("generated").exists(), "the generated overlay goes too");
        let again = world.run(&["undeploy"]);
        again.is_fine();
        assert!(again.out.contains("nothing to do"), "{}", again.out);
    })
    .await;
}

#[tokio::test]
async fn another_namespace_gets_all_of_it() {
    let Some(mut world) = World::with("test", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    world.set("NAMESPACE", "zoo");
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        assert!(world.store().get("namespaces", "", "petmesh").is_none());
        assert_eq!(world.store().list("deployments", Some("zoo")).len(), 4);
        let binding = world.store().list("rolebindings", Some("zoo"));
        assert_eq!(binding[0]["subjects"][0]["namespace"], "zoo");
        world.run(&["undeploy"]).is_fine();
        assert!(world.store().get("namespaces", "", "zoo").is_none());
    })
    .await;
}

#[tokio::test]
async fn a_roll_out_that_stands_still_names_the_pod_the_reason_and_the_remedy() {
    for (reason, remedy) in [
        ("ErrImageNeverPull", "make deploy loads it"),
        ("ImagePullBackOff", "make deploy loads it"),
        ("CrashLoopBackOff", "make logs APP="),
    ] {
        let Some(mut world) = World::with("test", settled(Settle::Stuck(reason))) else { return };
        world.loaded_node();
        world.set("TIMEOUT", "2");
        blocking(move || {
            let outcome = world.run(&["deploy"]);
            assert_eq!(outcome.code, 1);
            let last = outcome.err.lines().last().unwrap();
            assert!(last.starts_with("error: not rolled out after ") && last.contains(reason), "{last}");
            assert!(last.contains(remedy), "{last}");
            assert!(outcome.out.contains("ready: ingress 0/2, pet 0/2"), "{}", outcome.out);
            let status = world.run(&["status"]);
            status.is_refused("not all is ready", "make logs");
            assert!(status.out.contains(reason), "{}", status.out);
        })
        .await;
    }
}

// The disruption controller writes a budget's status whenever a pod comes or goes.
#[tokio::test]
async fn a_budget_whose_status_moved_is_unchanged() {
    let Some(world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    let kubectl = world.real("kubectl");
    world.tool(
        "kubectl",
        &format!(
            "{kubectl} \"$@\" || exit\n\
             case \"$*\" in *--dry-run*) ;; *' apply '*rendering.yaml*) {kubectl} patch pdb pet -n petmesh --subresource=status \
             --type=merge -p '{{\"status\":{{\"currentHealthy\":'$RANDOM'}}}}' >&2;; esac"
        ),
    );
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        let again = world.run(&["deploy"]);
        again.is_fine();
        assert!(again.out.contains("applied: 0 changed, "), "{}", again.out);
        world
            .store()
            .apply({
                let mut budget = world.store().get("poddisruptionbudgets", "petmesh", "pet").unwrap();
                budget["spec"]["minAvailable"] = json!(2);
                budget
            })
            .unwrap();
        let put_back = world.run(&["deploy"]);
        assert!(put_back.out.contains("applied: 1 changed, "), "{}", put_back.out);
    })
    .await;
}

#[tokio::test]
async fn a_crash_counts_when_the_pod_has_been_restarted_several_times() {
    for (restarts, hopeless) in [(1, false), (4, true)] {
        let Some(mut world) = World::with("test", settled(Settle::Stuck("CrashLoopBackOff"))) else { return };
        world.loaded_node();
        world.set("TIMEOUT", "1000");
        let kubectl = world.real("kubectl");
        // Ten seconds pass with each look at the clock; a pod that crashed once is well after the 30th.
        world.tool("sleep", "");
        world.tool(
            "date",
            &format!("echo x >>'{0}'; echo $(($(wc -l <'{0}') * 10))", world.path("clock").display()),
        );
        let recovered = "pet|Deployment|1 1|1|1|1|1|";
        world.tool(
            "kubectl",
            &format!(
                "now=$(wc -l <'{}' 2>/dev/null || echo 0)\n\
                 case \"$*\" in\n\
                 *'get pods'*'Unschedulable'*) echo 'pet-1|pet|proxy|CrashLoopBackOff|{restarts}|petmesh/proxy:1|back-off'; exit;;\n\
                 *'get deployments.apps,daemonsets.apps'*) if [ $now -gt 30 ]; then echo '{recovered}'; exit; fi;;\n\
                 esac\nexec {kubectl} \"$@\"",
                world.path("clock").display()
            ),
        );
        blocking(move || {
            let outcome = world.run(&["deploy"]);
            assert_eq!(outcome.code, i32::from(hopeless), "{}\n{}", outcome.out, outcome.err);
        })
        .await;
    }
}

#[tokio::test]
async fn an_exceeded_quota_names_the_component_that_gives_more() {
    let Some(mut world) = World::with("test", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    world.set("TIMEOUT", "1");
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        let mut pet = world.store().get("deployments", "petmesh", "pet").unwrap();
        let message = "pods \"pet-1\" is forbidden: exceeded quota: petmesh, requested: requests.cpu=80m";
        pet["spec"]["replicas"] = json!(10);
        world.store().apply(pet.clone()).unwrap();
        pet = world.store().get("deployments", "petmesh", "pet").unwrap();
        pet["status"]["availableReplicas"] = json!(2);
        pet["status"]["conditions"] =
            json!([{"type": "ReplicaFailure", "status": "True", "message": message}]);
        world.store().apply(pet).unwrap();
        let status = world.run(&["status"]);
        assert!(status.out.contains("deploy/components/larger-quota"), "{}\n{}", status.out, status.err);
        // As the component has them: what the line does is what the component does.
        let amounts =
            r#"{"spec":{"hard":{"requests.cpu":"2","requests.memory":"1536Mi","limits.memory":"2624Mi"}}}"#;
        assert!(
            status.out.contains(amounts) || status.err.contains(amounts),
            "{}\n{}",
            status.out,
            status.err
        );
    })
    .await;
}

#[tokio::test]
async fn what_only_reads_needs_no_confirmation() {
    let Some(world) = World::new("eu-prod-1") else { return };
    world.loaded_node();
    blocking(move || {
        for command in ["status", "logs", "url"] {
            world.refuses(&[command], "there is no mesh", "make deploy");
        }
        world.refuses(&["undeploy"], "looks like production", "CONFIRM='eu-prod-1'");
    })
    .await;
}

#[tokio::test]
async fn an_overlay_of_ones_own_is_named_by_its_path() {
    let Some(mut world) = World::with("kind-pets", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    let overlay = crate::world::root().join("deploy/examples/overlays/hpa");
    world.set("OVERLAY", overlay.to_str().unwrap());
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        assert_eq!(names(&world, "horizontalpodautoscalers").len(), 2);
        let pet = world.store().get("deployments", "petmesh", "pet").unwrap();
        assert_eq!(pet["spec"]["template"]["spec"]["containers"][0]["image"], format!("petmesh/pet:{TAG}"));
        let gone = world.run(&["undeploy"]);
        gone.is_fine();
        assert!(gone.out.contains("left: the images petmesh/* on the nodes"), "{}", gone.out);
    })
    .await;
}

#[tokio::test]
async fn status_shows_what_runs() {
    let Some(world) = World::with("test", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    blocking(move || {
        world.refuses(&["status"], "there is no mesh in namespace petmesh", "make deploy");
        world.refuses(&["logs"], "there is no mesh in namespace petmesh", "make deploy");
        world.refuses(&["url"], "there is no mesh in namespace petmesh", "make deploy");
        world.run(&["deploy"]).is_fine();
        let status = world.run(&["status"]);
        status.is_fine();
        assert!(status.out.contains(&format!("petmesh/pet:{TAG}")), "{}", status.out);
        assert!(
            status.out.lines().any(|line| line.starts_with("sds ") && line.contains("2/2")),
            "{}",
            status.out
        );
    })
    .await;
}

// A fake client listens nowhere, so the port-forward is one that says the words and stays.
#[tokio::test]
async fn url_starts_a_port_forward_where_no_node_port_answers_and_undeploy_ends_it() {
    let Some(world) = World::with("test", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    let kubectl = world.real("kubectl");
    world.tool(
        "kubectl",
        &format!(
            "case \"$*\" in *port-forward*' 8080:80') echo 'unable to listen on port 8080: address already in use' >&2; exit 1;; \
             *port-forward*) echo 'Forwarding from 127.0.0.1:41234 -> 10000'; while :; do sleep 1; done;; \
             esac\nexec {kubectl} \"$@\""
        ),
    );
    world.tool("curl", "case \"$*\" in *127.0.0.1:41234*) printf '{\"pets\":[]}';; *) exit 7;; esac");
    blocking(move || {
        world.run(&["deploy"]).is_fine();
        let url = world.run(&["url"]);
        url.is_fine();
        assert_eq!(url.out, "curl 'http://127.0.0.1:41234/petstore/petstore/2?includePets=true'\n");
        let started = world.calls("kubectl").iter().filter(|call| call.contains("port-forward")).count();
        assert_eq!(started, 2, "one port was taken, one was free, and the second command used it again");
        let file = fs::read_to_string(world.path("generated/port-forward")).unwrap();
        let pid = file.lines().next().unwrap().to_owned();
        // A process that nobody has waited for yet has no words left.
        let runs = || {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("port-forward")
        };
        assert!(runs() || cfg!(not(target_os = "linux")));
        world.run(&["undeploy"]).is_fine();
        assert!(!world.path("generated").exists());
        assert!(!runs(), "it ended");
    })
    .await;
}

#[tokio::test]
async fn an_address_that_answers_with_something_else_is_not_printed() {
    let Some(world) = World::with("test", settled(Settle::RolledOut)) else { return };
    world.loaded_node();
    let kubectl = world.real("kubectl");
    world.tool(
        "kubectl",
        &format!("case \"$*\" in *port-forward*) echo 'error: lost connection to pod' >&2; exit 1;; esac\nexec {kubectl} \"$@\""),
    );
    world.tool("curl", "printf 'It works!'");
    blocking(move || {
        let outcome = world.run(&["deploy"]);
        outcome.is_refused("no address of the ingress answers from here", "make status");
        assert!(outcome.err.contains("lost connection to pod"), "{}", outcome.err);
        assert!(!outcome.out.contains("curl '"), "{}", outcome.out);
    })
    .await;
}
