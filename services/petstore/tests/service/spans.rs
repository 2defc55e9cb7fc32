//! What Zipkin receives of a request, and what pet's sidecar is told meanwhile.

use std::collections::BTreeMap;

use crate::support::Answer::{HangUp, Say};
use crate::support::{PetStore, Result, Sidecar, answer};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use reqwest::Method;
use serde_json::{Value, json};
use telemetry::Spans;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const PETS: &str = r#"[{"name":"Toby","age":5}]"#;
const WITH_PETS: &str = "/petstore/2?includePets=true";
const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const CALLER: &str = "e457b5a2e4d86bd1";

/// Stands where Zipkin would.
struct Collector {
    endpoint: String,
    received: mpsc::UnboundedReceiver<Vec<Value>>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}/api/v2/spans", listener.local_addr()?);
        let (sender, received) = mpsc::unbounded_channel();
        let receive = async move |Json(spans): Json<Vec<Value>>| {
            sender.send(spans).map_or(StatusCode::GONE, |()| StatusCode::ACCEPTED)
        };
        let router = Router::new().route("/api/v2/spans", post(receive));
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok(Self { endpoint, received })
    }

    /// All that was sent, by kind.
    async fn spans(mut self, spans: Spans) -> BTreeMap<String, Value> {
        spans.finish().await;
        let mut by_kind = BTreeMap::new();
        while let Ok(batch) = self.received.try_recv() {
            for span in batch {
                let kind = span["kind"].as_str().unwrap_or_default().to_owned();
                assert!(by_kind.insert(kind, span).is_none(), "two spans of one kind");
            }
        }
        by_kind
    }
}

/// Sends one request with `headers`; answers with the spans it made and the trace headers that pet's sidecar saw.
async fn one_request(
    headers: &[(&str, &str)],
) -> Result<(BTreeMap<String, Value>, BTreeMap<String, String>)> {
    let mut sidecar = Sidecar::once(Say(answer("200 OK", PETS))).await?;
    let collector = Collector::start().await?;
    let spans = Spans::to("petstore", &collector.endpoint)?;
    let petstore = PetStore::start_traced(&sidecar.url, spans.clone()).await?;
    let mut request = petstore.client.get(format!("{}{WITH_PETS}", petstore.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    assert_eq!(request.send().await?.status(), 200);
    let (_, head) = sidecar.requests.recv().await.ok_or("no request")?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let traced = fields.filter(|(name, _)| !matches!(*name, "accept" | "host"));
    let traced = traced.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok((collector.spans(spans).await, traced))
}

#[tokio::test]
async fn the_callers_trace_goes_on_through_petstore_to_pet() -> Result {
    let incoming = [
        ("x-request-id", "id-7"),
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", CALLER),
        ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
        ("x-b3-sampled", "1"),
    ];
    let (spans, passed_on) = one_request(&incoming).await?;
    assert_eq!(spans.len(), 2, "{spans:?}");
    let (server, client) = (&spans["SERVER"], &spans["CLIENT"]);
    assert_eq!((&server["traceId"], &server["parentId"]), (&json!(TRACE), &json!(CALLER)));
    assert_eq!((&client["traceId"], &client["parentId"]), (&json!(TRACE), &server["id"]));
    assert_ne!(client["id"], server["id"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let expected = [
        ("x-request-id", "id-7".to_owned()),
        ("x-b3-traceid", TRACE.to_owned()),
        ("x-b3-spanid", text(&client["id"])),
        ("x-b3-parentspanid", text(&server["id"])),
        ("x-b3-sampled", "1".to_owned()),
    ];
    assert_eq!(passed_on, expected.map(|(name, value)| (name.to_owned(), value)).into());
    Ok(())
}

#[tokio::test]
async fn spans_say_what_was_asked_of_whom_and_how_it_went() -> Result {
    let (spans, _) = one_request(&[]).await?;
    let (server, client) = (&spans["SERVER"], &spans["CLIENT"]);
    assert_eq!(server["name"], "GET /petstore/{id}");
    assert_eq!(server["localEndpoint"], json!({ "serviceName": "petstore" }));
    assert_eq!(
        server["tags"],
        json!({ "http.request.method": "GET", "http.route": "/petstore/{id}", "url.scheme": "http",
            "url.path": "/petstore/2", "url.query": "includePets=true", "http.response.status_code": "200" })
    );
    assert_eq!(client["name"], "GET");
    assert_eq!(client["localEndpoint"], json!({ "serviceName": "petstore" }));
    assert_eq!(client["remoteEndpoint"], json!({ "serviceName": "pet" }));
    assert_eq!(client["tags"]["http.response.status_code"], "200");
    assert_eq!(client["tags"].get("error"), None);
    assert!(client["tags"]["url.full"].as_str().is_some_and(|url| url.ends_with("/pets?petStoreId=2")));
    let micros = |span: &Value, field: &str| span[field].as_u64().ok_or(format!("{field} in {span}"));
    assert!(micros(client, "timestamp")? >= micros(server, "timestamp")?);
    assert!(micros(client, "duration")? >= 1 && micros(server, "duration")? >= 1);
    Ok(())
}

#[tokio::test]
async fn without_a_trace_one_begins_here_and_pet_hears_of_it_in_both_formats() -> Result {
    let (spans, passed_on) = one_request(&[("x-request-id", "id-7")]).await?;
    let (server, client) = (&spans["SERVER"], &spans["CLIENT"]);
    assert_eq!(server.get("parentId"), None);
    let (trace, id) = (client["traceId"].as_str().ok_or("id")?, client["id"].as_str().ok_or("id")?);
    assert_eq!(passed_on["traceparent"], format!("00-{trace:0>32}-{id}-01"));
    assert_eq!((passed_on["x-b3-traceid"].as_str(), passed_on["x-b3-spanid"].as_str()), (trace, id));
    assert_eq!((passed_on["x-b3-sampled"].as_str(), passed_on["x-request-id"].as_str()), ("1", "id-7"));
    Ok(())
}

#[tokio::test]
async fn each_format_is_answered_in_its_own() -> Result {
    let w3c = format!("00-{TRACE}-{CALLER}-01");
    let (spans, passed_on) = one_request(&[("traceparent", &w3c), ("tracestate", "a=1")]).await?;
    assert_eq!(spans["SERVER"]["parentId"], CALLER);
    let id = spans["CLIENT"]["id"].as_str().ok_or("id")?;
    let expected = [("traceparent", format!("00-{TRACE}-{id}-01")), ("tracestate", "a=1".to_owned())];
    assert_eq!(passed_on, expected.map(|(name, value)| (name.to_owned(), value)).into());

    // The caller left the decision to us.
    let (spans, passed_on) = one_request(&[("b3", &format!("64fe8b2a57d3eff7-{CALLER}"))]).await?;
    assert_eq!(spans["SERVER"]["traceId"], "64fe8b2a57d3eff7");
    let (id, parent) = (&spans["CLIENT"]["id"], &spans["SERVER"]["id"]);
    let (id, parent) = (id.as_str().ok_or("id")?, parent.as_str().ok_or("id")?);
    let expected = ("b3".to_owned(), format!("64fe8b2a57d3eff7-{id}-1-{parent}"));
    assert_eq!(passed_on, [expected].into());
    Ok(())
}

#[tokio::test]
async fn a_caller_that_wants_no_spans_gets_none_and_its_headers_pass_as_they_came() -> Result {
    let w3c = format!("00-{TRACE}-{CALLER}-00");
    let b3 = format!("{TRACE}-{CALLER}-0");
    let several = [("x-b3-traceid", TRACE), ("x-b3-spanid", CALLER), ("x-b3-sampled", "0")];
    let cases: [&[(&str, &str)]; 5] =
        [&[("traceparent", &w3c)], &[("b3", &b3)], &[("b3", "0")], &[("x-b3-sampled", "0")], &several];
    for headers in cases {
        let (spans, passed_on) = one_request(headers).await?;
        assert!(spans.is_empty(), "{headers:?}: {spans:?}");
        let came = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        assert_eq!(passed_on, came.collect(), "{headers:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_failure_of_pet_is_an_error_on_both_spans() -> Result {
    let unavailable = || Say(answer("503 Service Unavailable", ""));
    for (script, status, error) in
        [(vec![vec![unavailable()]], 503, "503"), (vec![vec![HangUp], vec![HangUp]], 502, "cut")]
    {
        let sidecar = Sidecar::start(script).await?;
        let collector = Collector::start().await?;
        let spans = Spans::to("petstore", &collector.endpoint)?;
        let petstore = PetStore::start_traced(&sidecar.url, spans.clone()).await?;
        assert_eq!(petstore.get(WITH_PETS).await?.status(), status);
        let spans = collector.spans(spans).await;
        let (server, client) = (&spans["SERVER"]["tags"], &spans["CLIENT"]["tags"]);
        assert_eq!((&client["error"], &client["otel.status_code"]), (&json!(error), &json!("ERROR")));
        assert_eq!((&client["error.type"], &server["error"]), (&json!(error), &json!(status.to_string())));
        assert_eq!(server["http.response.status_code"], status.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn a_callers_mistake_is_no_error_and_what_is_made_up_names_no_span() -> Result {
    for (method, path, name, status) in [
        (Method::GET, "/petstore/none", "GET /petstore/{id}", "400"),
        (Method::GET, "/no/such/path", "GET", "404"),
        (Method::from_bytes(b"BREW")?, "/petstore/2", "HTTP /petstore/{id}", "405"),
    ] {
        let collector = Collector::start().await?;
        let spans = Spans::to("petstore", &collector.endpoint)?;
        let petstore = PetStore::start_traced("http://127.0.0.1:9", spans.clone()).await?;
        petstore.send(method, path).await?;
        let server = &collector.spans(spans).await["SERVER"];
        assert_eq!((&server["name"], server["tags"].get("error")), (&json!(name), None));
        assert_eq!(server["tags"]["http.response.status_code"], status);
    }
    Ok(())
}

#[tokio::test]
async fn probes_make_no_spans() -> Result {
    let collector = Collector::start().await?;
    let spans = Spans::to("petstore", &collector.endpoint)?;
    let petstore = PetStore::start_traced("http://127.0.0.1:9", spans.clone()).await?;
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(petstore.get(path).await?.status(), 200);
    }
    petstore.send(Method::POST, "/health/503").await?;
    assert!(collector.spans(spans).await.is_empty());
    Ok(())
}

#[test]
fn an_endpoint_is_plain_http_at_a_host_and_shows_no_password() {
    for bad in
        ["", "zipkin:9411", "https://zipkin/api/v2/spans", "http://", "http://me:secret@zipkin/", "/api"]
    {
        let error = Spans::to("petstore", bad).expect_err(bad).to_string();
        assert!(error.contains("http://zipkin:9411/api/v2/spans") && !error.contains("secret"), "{error}");
    }
}
