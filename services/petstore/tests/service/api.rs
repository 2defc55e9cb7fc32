//! The service over real sockets, pet aside: what a caller sees.

use std::time::Duration;

use crate::support::{PetStore, Result, Sidecar};
use reqwest::Method;
use serde_json::{Value, json};

/// Nothing listens there: whoever asks pet gets a 503.
const NO_SIDECAR: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn without_pets_the_sidecar_is_not_asked() -> Result {
    let mut sidecar = Sidecar::start(vec![vec![]]).await?;
    let petstore = PetStore::start(&sidecar.url).await?;
    let response = petstore.get("/petstore/2?includePets=false").await?;
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await?, r#"{"name":"Amiguitos Mascotas","location":"Málaga","pets":[]}"#);
    assert!(sidecar.requests.try_recv().is_err());
    Ok(())
}

#[tokio::test]
async fn a_wrong_parameter_is_a_400_that_names_it() -> Result {
    let petstore = PetStore::start(NO_SIDECAR).await?;
    let queries = [
        "",
        "?includepets=true",
        "?includePets=",
        "?includePets=TRUE",
        "?includePets=1",
        "?includePets=yes",
        "?includePets=true&includePets=true",
    ];
    for query in queries {
        let (status, error) = petstore.error(Method::GET, &format!("/petstore/2{query}")).await?;
        assert_eq!((status, error.contains("includePets")), (400, true), "{query}: {error}");
    }
    for id in ["0", "-1", "two", "1.5", "18446744073709551616", "%20"] {
        let (status, error) =
            petstore.error(Method::GET, &format!("/petstore/{id}?includePets=true")).await?;
        assert_eq!((status, error.contains("the store is")), (400, true), "{id}: {error}");
    }
    assert_eq!(petstore.error(Method::GET, "/petstore/%ff?includePets=true").await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_answered_in_json() -> Result {
    let petstore = PetStore::start(NO_SIDECAR).await?;
    for path in ["/", "/petstore", "/petstore/", "/petstore/2/", "/pets"] {
        assert_eq!(petstore.error(Method::GET, path).await?, (404, format!("there is nothing at {path}")));
    }
    let (status, error) = petstore.error(Method::POST, "/petstore/2?includePets=true").await?;
    assert_eq!((status, error.as_str()), (405, "/petstore/2 does not answer to POST"));
    assert_eq!(petstore.send(Method::PUT, "/health").await?.headers()["allow"], "GET,HEAD");
    Ok(())
}

#[tokio::test]
async fn health_answers_with_the_status_that_was_set() -> Result {
    let petstore = PetStore::start(NO_SIDECAR).await?;
    assert_eq!(petstore.get("/health").await?.status(), 200);
    let set = petstore.send(Method::POST, "/health/503").await?;
    assert_eq!((set.status().as_u16(), set.json::<Value>().await?), (200, json!({ "status": 503 })));
    assert_eq!(petstore.get("/health").await?.status(), 503);
    assert_eq!(petstore.error(Method::POST, "/health/600").await?.0, 400);
    assert_eq!(petstore.get("/readyz").await?.status(), 200, "the probes do not follow /health, nor pet");
    Ok(())
}

#[tokio::test]
async fn a_leaving_instance_says_so_and_still_answers() -> Result {
    let petstore =
        PetStore::start_with(NO_SIDECAR, Duration::from_secs(60), Duration::from_secs(3600)).await?;
    petstore.lifecycle.shutdown().begin();
    assert_eq!(petstore.get("/readyz").await?.status(), 503);
    assert_eq!(petstore.get("/livez").await?.status(), 200);
    assert_eq!(petstore.get("/petstore/2?includePets=false").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn the_description_in_the_repository_is_the_one_served() -> Result {
    let petstore = PetStore::start(NO_SIDECAR).await?;
    let served = petstore.get("/openapi.json").await?.text().await?;
    let remedy = "services/petstore/openapi.json is out of date: put there what a running petstore answers at /openapi.json";
    assert!(served == include_str!("../../openapi.json"), "{remedy}\n{served}");
    let document: Value = serde_json::from_str(&served)?;
    let paths: Vec<_> = document["paths"].as_object().into_iter().flatten().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/health", "/health/{status}", "/livez", "/petstore/{id}", "/readyz"]);
    Ok(())
}
