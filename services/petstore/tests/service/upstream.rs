//! petstore and its sidecar: what it asks, and what its caller sees when pet fails.

use std::time::Duration;

use crate::support::Answer::{HangUp, Last, Nothing, Say};
use crate::support::{PetStore, Result, Sidecar, answer, read_head};
use lifecycle::Outcome;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const PETS: &str = r#"[{"name":"Mififú","age":3},{"name":"Toby","age":5}]"#;
const WITH_PETS: &str = "/petstore/2?includePets=true";

fn store() -> Value {
    json!({ "name": "Amiguitos Mascotas", "location": "Málaga",
        "pets": [{ "name": "Mififú", "age": 3 }, { "name": "Toby", "age": 5 }] })
}

#[tokio::test]
async fn a_store_comes_with_the_pets_that_pet_lists() -> Result {
    let sidecar = Sidecar::once(Say(answer("200 OK", PETS))).await?;
    let petstore = PetStore::start(&sidecar.url).await?;
    let body = petstore.get(WITH_PETS).await?.text().await?;
    assert_eq!(body, format!(r#"{{"name":"Amiguitos Mascotas","location":"Málaga","pets":{PETS}}}"#));
    Ok(())
}

#[tokio::test]
async fn the_sidecar_is_told_the_service_by_the_host_header_and_gets_the_trace() -> Result {
    let mut sidecar = Sidecar::once(Say(answer("200 OK", PETS))).await?;
    let petstore = PetStore::start(&sidecar.url).await?;
    let request = petstore.client.get(format!("{}{WITH_PETS}", petstore.url));
    let request = request.header("x-request-id", "id-7").header("b3", "0").header("cookie", "secret");
    assert_eq!(request.send().await?.status(), 200);
    let (_, head) = sidecar.requests.recv().await.ok_or("no request")?;
    let lines: Vec<_> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines[0], "GET /pets?petStoreId=2 HTTP/1.1");
    let mut fields = lines[1..].to_vec();
    fields.sort_unstable();
    assert_eq!(fields, ["accept: application/json", "b3: 0", "host: pet", "x-request-id: id-7"]);
    Ok(())
}

#[tokio::test]
async fn a_gateway_failure_of_pet_is_passed_on_as_it_came() -> Result {
    for (status, line) in
        [(502, "502 Bad Gateway"), (503, "503 Service Unavailable"), (504, "504 Gateway Timeout")]
    {
        let sidecar = Sidecar::once(Say(answer(line, "no healthy upstream"))).await?;
        let petstore = PetStore::start(&sidecar.url).await?;
        assert_eq!(petstore.error(Method::GET, WITH_PETS).await?, (status, format!("pet answered {line}")));
    }
    Ok(())
}

#[tokio::test]
async fn any_other_answer_than_200_is_a_502() -> Result {
    for line in ["404 Not Found", "400 Bad Request", "500 Internal Server Error", "302 Found", "202 Accepted"]
    {
        let sidecar = Sidecar::once(Say(answer(line, PETS))).await?;
        let petstore = PetStore::start(&sidecar.url).await?;
        assert_eq!(petstore.error(Method::GET, WITH_PETS).await?, (502, format!("pet answered {line}")));
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_no_list_of_pets_is_a_502() -> Result {
    let large = format!("[{}]", " ".repeat(64 * 1024));
    for body in ["", "oops", "{}", "null", r#"[{"name":"Toby"}]"#, "[{", &large] {
        let sidecar = Sidecar::once(Say(answer("200 OK", body))).await?;
        let petstore = PetStore::start(&sidecar.url).await?;
        let (status, error) = petstore.error(Method::GET, WITH_PETS).await?;
        assert_eq!(status, 502);
        assert!(error.starts_with("pet answered with "), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_cut_short_is_a_502() -> Result {
    let cut = answer("200 OK", PETS).replace("}]", "");
    let sidecar = Sidecar::once(Last(cut)).await?;
    let petstore = PetStore::start(&sidecar.url).await?;
    let (status, error) = petstore.error(Method::GET, WITH_PETS).await?;
    assert_eq!((status, error.contains("before the whole answer")), (502, true), "{error}");
    Ok(())
}

#[tokio::test]
async fn silence_is_a_504_and_no_sidecar_a_503() -> Result {
    let sidecar = Sidecar::once(Nothing).await?;
    let petstore = PetStore::start_with(&sidecar.url, Duration::from_millis(50), Duration::ZERO).await?;
    let silence = petstore.error(Method::GET, WITH_PETS).await?;
    assert_eq!(silence, (504, "pet did not answer within 0.05 s".to_owned()));

    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let petstore = PetStore::start(&format!("http://{nobody}")).await?;
    let (status, error) = petstore.error(Method::GET, WITH_PETS).await?;
    assert_eq!((status, error.contains("cannot be reached")), (503, true), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_that_the_sidecar_closes_is_not_seen_by_the_caller() -> Result {
    let ok = || Say(answer("200 OK", PETS));
    let mut sidecar = Sidecar::start(vec![vec![ok(), HangUp], vec![ok()]]).await?;
    let petstore = PetStore::start(&sidecar.url).await?;
    for _ in 0..2 {
        assert_eq!(petstore.get(WITH_PETS).await?.json::<Value>().await?, store());
    }
    let mut connections = Vec::new();
    while let Ok((connection, _)) = sidecar.requests.try_recv() {
        connections.push(connection);
    }
    assert_eq!(connections, [0, 0, 1], "the second request met the closed connection and was sent again");
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_always_hangs_up_is_asked_twice_and_then_a_502() -> Result {
    let mut sidecar = Sidecar::start(vec![vec![HangUp], vec![HangUp], vec![HangUp]]).await?;
    let petstore = PetStore::start(&sidecar.url).await?;
    assert_eq!(petstore.error(Method::GET, WITH_PETS).await?.0, 502);
    let asked = std::iter::from_fn(|| sidecar.requests.try_recv().ok()).count();
    assert_eq!(asked, 2);
    Ok(())
}

#[tokio::test]
async fn a_request_in_flight_at_shutdown_gets_its_answer() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sidecar = format!("http://{}", listener.local_addr()?);
    let petstore = PetStore::start(&sidecar).await?;
    let request = tokio::spawn(petstore.client.get(format!("{}{WITH_PETS}", petstore.url)).send());
    let (mut connection, _) = listener.accept().await?;
    read_head(&mut connection).await?;

    petstore.lifecycle.shutdown().begin();
    let drain = tokio::spawn(petstore.lifecycle.drain(Duration::from_secs(60)));
    while petstore.client.get(&petstore.url).send().await.is_ok() {
        tokio::task::yield_now().await; // until it stops listening
    }
    assert!(!drain.is_finished());

    connection.write_all(answer("200 OK", PETS).as_bytes()).await?;
    let response = request.await??;
    assert_eq!((response.status().as_u16(), &response.headers()["connection"]), (200, &"close".parse()?));
    assert_eq!(response.json::<Value>().await?, store());
    assert_eq!(drain.await?, Outcome::Done);
    Ok(())
}
