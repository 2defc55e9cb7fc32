//! One request through every part, and the answers to requests that are wrong.

use e2e::Mesh;
use serde_json::json;

#[tokio::test]
async fn a_store_with_its_pets_passes_every_hop_with_one_request_id() {
    let mesh = Mesh::start().await;
    let answer = mesh.get_with("/petstore/petstore/2?includePets=true", &[("user-agent", "hop-test")]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let expected = json!({
        "name": "Amiguitos Mascotas", "location": "Málaga",
        "pets": [{"name": "Mififú", "age": 3}, {"name": "Toby", "age": 5}],
    });
    assert_eq!(answer.json(), expected);

    let edge = mesh.pod("ingress", 1).await;
    let mut id = String::new();
    mesh.until("the ingress logs the request", async || {
        let line = mesh.access_log(&edge).await.into_iter().find(|line| line.contains("hop-test"));
        id = line.as_deref().and_then(request_id).unwrap_or_default().to_owned();
        !id.is_empty()
    })
    .await;
    // petstore's proxy carries the request twice: in, and out to pet; one of the two pets answers.
    for (hop, times) in [("petstore", 2), ("pet", 1)] {
        let mut seen = Vec::new();
        mesh.until(&format!("{hop} logs request {id} {times} times"), async || {
            seen.clear();
            for pod in mesh.pods_of(hop).await {
                seen.extend(mesh.access_log(&pod).await.into_iter().filter(|line| line.contains(&id)));
            }
            seen.len() >= times
        })
        .await;
        assert_eq!(seen.len(), times, "{seen:#?}");
        assert!(seen.iter().all(|line| line.contains(" 200 ")), "{seen:#?}");
    }
    mesh.down().await;
}

#[tokio::test]
async fn requests_are_answered_as_documented() {
    let mesh = Mesh::start().await;
    let without = mesh.get("/petstore/petstore/2?includePets=false").await;
    assert_eq!((without.status, without.json()["pets"].clone()), (200, json!([])));
    let pets = mesh.get("/pet/pets?petStoreId=2").await;
    assert_eq!((pets.status, pets.json()[1]["name"].clone()), (200, json!("Toby")));
    for (path, status) in [
        ("/petstore/petstore/2", 400),
        ("/petstore/petstore/2?includePets=maybe", 400),
        ("/petstore/petstore/none?includePets=true", 400),
        ("/pet/pets", 400),
        ("/pet", 404),
        ("/", 404),
        ("/dog/pets", 404),
    ] {
        let answer = mesh.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    mesh.down().await;
}

#[tokio::test]
async fn the_access_log_has_requests_and_no_probes() {
    let mesh = Mesh::start().await;
    let pets = mesh.pods_of("pet").await;
    assert_eq!(mesh.get("/pet/pets?petStoreId=7").await.status, 200);
    let mut lines = Vec::new();
    mesh.until("a pet logs the request", async || {
        lines.clear();
        for pod in &pets {
            lines.extend(mesh.access_log(pod).await);
        }
        lines.iter().any(|line| line.contains("/pets?petStoreId=7"))
    })
    .await;
    // Each pod has been ready by now, so it has been probed.
    let probes: Vec<&String> = lines.iter().filter(|line| line.contains("/readyz")).collect();
    assert_eq!(probes, Vec::<&String>::new());
    mesh.down().await;
}

#[tokio::test]
async fn an_app_reaches_services_by_name_and_nothing_else() {
    let mesh = Mesh::start().await;
    let petstore = mesh.pod("petstore", 1).await;
    let pets = mesh.call_from(&petstore, "pet", "/pets?petStoreId=2").await;
    assert_eq!((pets.status, pets.json()[0]["name"].clone()), (200, json!("Mififú")));
    // Envoy's answer where `cluster_header` names no cluster; discovery's own cluster is none for apps.
    for service in ["dog", "sds", "pet.elsewhere"] {
        let answer = mesh.call_from(&petstore, service, "/").await;
        assert_eq!((answer.status, answer.body.as_str()), (503, ""), "{service}");
    }
    mesh.down().await;
}

#[tokio::test]
async fn the_admin_pages_know_the_pods_of_the_other_services() {
    let mesh = Mesh::start().await;
    let petstore = mesh.pod("petstore", 1).await;
    let pets = mesh.pods_of("pet").await;
    assert_eq!(pets.len(), 2);
    let mut clusters = String::new();
    mesh.until("petstore's proxy knows both pets", async || {
        clusters = mesh.admin(&petstore, "/clusters").await;
        pets.iter().all(|pod| clusters.contains(&format!("pet::{}:10000::", pod.address)))
    })
    .await;
    mesh.down().await;
}

/// The id in a line of Envoy's default format: the third of the quoted fields from the end.
fn request_id(line: &str) -> Option<&str> {
    let quoted: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    quoted.len().checked_sub(3).and_then(|at| quoted.get(at)).copied().filter(|id| id.len() == 36)
}
