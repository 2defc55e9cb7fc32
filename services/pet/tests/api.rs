//! The service over real sockets: what a caller sees.

use std::time::Duration;

use lifecycle::{Lifecycle, Outcome};
use pet::AppState;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Pet {
    url: String,
    lifecycle: Lifecycle,
    client: Client,
}

impl Pet {
    async fn start() -> Result<Self> {
        Self::start_with(Duration::ZERO, Duration::ZERO).await
    }

    async fn start_with(delay: Duration, linger: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let lifecycle = Lifecycle::manual();
        let shutdown = lifecycle.shutdown();
        shutdown.spawn(pet::serve(listener, AppState::new(delay, shutdown.clone()), linger));
        Ok(Self { url, lifecycle, client: Client::builder().no_proxy().build()? })
    }

    async fn send(&self, method: Method, path: &str) -> Result<Response> {
        Ok(self.client.request(method, format!("{}{path}", self.url)).send().await?)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        self.send(Method::GET, path).await
    }

    /// The status line, the same status in the body, and the words.
    async fn error(&self, method: Method, path: &str) -> Result<(u16, String)> {
        let response = self.send(method, path).await?;
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        let body: Value = response.json().await?;
        assert_eq!(body["status"], status, "{path}");
        Ok((status, body["error"].as_str().unwrap_or_default().to_owned()))
    }
}

#[tokio::test]
async fn every_store_has_the_same_two_pets() -> Result {
    let pet = Pet::start().await?;
    for id in ["1", "2", "18446744073709551615"] {
        let response = pet.get(&format!("/pets?petStoreId={id}")).await?;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.text().await?, r#"[{"name":"Mififú","age":3},{"name":"Toby","age":5}]"#);
    }
    Ok(())
}

#[tokio::test]
async fn the_answer_comes_after_the_delay() -> Result {
    let pet = Pet::start_with(Duration::from_millis(20), Duration::ZERO).await?;
    assert_eq!(pet.get("/pets?petStoreId=2").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_wrong_store_is_a_400_that_names_the_parameter() -> Result {
    let pet = Pet::start().await?;
    for query in [
        "",
        "?",
        "?petstoreid=1",
        "?petStoreId=",
        "?petStoreId=0",
        "?petStoreId=-1",
        "?petStoreId=two",
        "?petStoreId=1.5",
        "?petStoreId=18446744073709551616",
        "?petStoreId=1&petStoreId=2",
        "?petStoreId=%ff",
    ] {
        let (status, error) = pet.error(Method::GET, &format!("/pets{query}")).await?;
        assert_eq!(status, 400, "{query}");
        assert!(error.contains("petStoreId"), "{query}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_answered_in_json() -> Result {
    let pet = Pet::start().await?;
    assert_eq!(pet.error(Method::GET, "/").await?, (404, "there is nothing at /".to_owned()));
    assert_eq!(pet.error(Method::GET, "/pets/").await?.0, 404);
    assert_eq!(pet.error(Method::DELETE, "/pets?petStoreId=2").await?.0, 405);
    assert_eq!(pet.error(Method::GET, "/health/200").await?.0, 405);
    let response = pet.send(Method::POST, "/pets").await?;
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    Ok(())
}

#[tokio::test]
async fn health_answers_with_the_status_that_was_set() -> Result {
    let pet = Pet::start().await?;
    assert_eq!(pet.get("/health").await?.status(), 200);
    for status in [503, 200, 204, 304, 418, 599] {
        let set = pet.send(Method::POST, &format!("/health/{status}")).await?;
        assert_eq!((set.status().as_u16(), set.json::<Value>().await?), (200, json!({ "status": status })));
        assert_eq!(pet.get("/health").await?.status(), status);
    }
    for bad in ["199", "600", "0", "abc", "-1", "%ff"] {
        assert_eq!(pet.error(Method::POST, &format!("/health/{bad}")).await?.0, 400, "{bad}");
        assert_eq!(pet.get("/health").await?.status(), 599, "a bad status changes nothing");
    }
    assert_eq!(pet.get("/readyz").await?.status(), 200, "the probes do not follow /health");
    Ok(())
}

#[tokio::test]
async fn a_leaving_instance_says_so_and_still_answers() -> Result {
    let pet = Pet::start_with(Duration::ZERO, Duration::from_secs(3600)).await?;
    assert_eq!(pet.get("/readyz").await?.status(), 200);
    pet.lifecycle.shutdown().begin();
    assert_eq!(pet.get("/readyz").await?.status(), 503);
    assert_eq!(pet.get("/livez").await?.status(), 200);
    let answer = pet.get("/pets?petStoreId=2").await?;
    assert_eq!((answer.status().as_u16(), &answer.headers()["connection"]), (200, &"close".parse()?));
    Ok(())
}

#[tokio::test]
async fn an_idle_instance_ends_by_itself_although_a_caller_keeps_its_connection() -> Result {
    let pet = Pet::start().await?;
    assert_eq!(pet.get("/livez").await?.text().await?, "ok\n");
    pet.lifecycle.shutdown().begin();
    assert_eq!(pet.lifecycle.drain(Duration::from_secs(60)).await, Outcome::Done);
    assert!(pet.client.get(&pet.url).send().await.is_err_and(|error| error.is_connect()));
    Ok(())
}

#[tokio::test]
async fn a_connection_that_was_accepted_last_has_its_request_answered() -> Result {
    let pet = Pet::start().await?;
    let address = pet.url.trim_start_matches("http://").to_owned();
    let mut waiting = TcpStream::connect(&address).await?;
    pet.lifecycle.shutdown().begin();
    while TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await; // until it stops listening
    }
    waiting.write_all(b"GET /livez HTTP/1.1\r\nhost: pet\r\n\r\n").await?;
    let mut response = String::new();
    waiting.read_to_string(&mut response).await?;
    assert!(
        response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("connection: close"),
        "{response}"
    );
    Ok(())
}

#[tokio::test]
async fn the_description_in_the_repository_is_the_one_served() -> Result {
    let pet = Pet::start().await?;
    let served = pet.get("/openapi.json").await?.text().await?;
    let remedy =
        "services/pet/openapi.json is out of date: put there what a running pet answers at /openapi.json";
    assert!(served == include_str!("../openapi.json"), "{remedy}\n{served}");
    let document: Value = serde_json::from_str(&served)?;
    let paths: Vec<_> = document["paths"].as_object().into_iter().flatten().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/health", "/health/{status}", "/livez", "/pets", "/readyz"]);
    Ok(())
}
