//! Tokens, rules, TLS and limits.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube_api::{Anonymous, Config, Rule, Server, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::Client;
use crate::{SLICES, slice};

fn guarded(tokens: Vec<Token>) -> Server {
    Server::start(Config { tokens, anonymous: Anonymous::Forbidden, ..Config::default() }).unwrap()
}

async fn status(server: &Server, method: &str, path: &str, token: &str) -> u16 {
    Client::connect(server).await.call(method, path, token, &Value::Null).await.status
}

#[tokio::test]
async fn a_token_opens_what_its_rules_say() {
    let reader =
        Token::service_account("reader", "demo", "sds").allow(Rule::new("demo", "endpointslices", &["list"]));
    let server = guarded(vec![reader, Token::admin("admin")]);
    assert_eq!(status(&server, "GET", SLICES, "reader").await, 200);
    assert_eq!(status(&server, "GET", &format!("{SLICES}?watch=1"), "reader").await, 403);
    assert_eq!(status(&server, "DELETE", SLICES, "reader").await, 403);
    assert_eq!(status(&server, "GET", "/apis/discovery.k8s.io/v1/endpointslices", "reader").await, 403);
    assert_eq!(status(&server, "GET", "/api/v1/namespaces/demo/pods", "reader").await, 403);
    assert_eq!(status(&server, "GET", "/apis/discovery.k8s.io/v1/endpointslices", "admin").await, 200);
    assert_eq!(
        status(&server, "GET", "/apis", "reader").await,
        200,
        "discovery is for everybody with a token"
    );
    assert_eq!(status(&server, "GET", "/apis", "").await, 403);
}

#[tokio::test]
async fn rotated_and_expired_tokens_are_refused() {
    let past = SystemTime::now() - Duration::from_secs(1);
    let server = guarded(vec![Token::admin("old"), Token { expires: Some(past), ..Token::admin("expired") }]);
    assert_eq!(status(&server, "GET", SLICES, "expired").await, 401);
    assert_eq!(status(&server, "GET", SLICES, "old").await, 200);
    server.faults().set_tokens(vec![Token::admin("new")]);
    assert_eq!(status(&server, "GET", SLICES, "old").await, 401);
    assert_eq!(status(&server, "GET", SLICES, "new").await, 200);
}

// Whether a client that trusts this CA gets an answer under this name.
async fn trusts(ca_pem: &str, server: &Server, name: &'static str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(server.tls_addr().unwrap()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let Ok(mut stream) = connector.connect(ServerName::try_from(name).unwrap(), socket).await else {
        return false;
    };
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer.ends_with(b"\r\n\r\nok")
}

#[tokio::test]
async fn tls_is_served_under_the_ca_of_the_server() {
    let server = Server::start(Config::default()).unwrap();
    assert!(trusts(server.ca_pem(), &server, "127.0.0.1").await);
    assert!(trusts(server.ca_pem(), &server, "localhost").await);
    assert!(!trusts(server.ca_pem(), &server, "example.org").await);

    let other = Server::start(Config::default()).unwrap();
    assert!(!trusts(server.ca_pem(), &other, "localhost").await);
    let ca_key = Some(server.ca_key_pem().to_owned());
    let again = Server::start(Config { ca_key, ..Config::default() }).unwrap();
    assert!(trusts(server.ca_pem(), &again, "localhost").await, "the same CA after a restart");
}

#[tokio::test]
async fn large_bodies_and_too_many_objects_are_refused() {
    let limits = Config { max_body: 1000, max_objects: 2, ..Config::default() };
    let server = Server::start(limits).unwrap();
    let mut large = slice("large", "127.0.0.2");
    large["metadata"]["annotations"] = json!({"a": "x".repeat(1000)});
    let answer = Client::connect(&server).await.call("POST", SLICES, "", &large).await;
    assert_eq!(answer.status, 413);
    let store = server.store();
    // The namespaces default and demo are two.
    assert_eq!(store.apply(slice("a", "127.0.0.2")).unwrap_err().code, 507);
}

#[tokio::test]
async fn a_stopped_server_frees_its_ports() {
    let server = Server::start(Config::default()).unwrap();
    let faults = server.faults();
    let address = server.plain_addr().unwrap();
    let mut open = Client::watch(&server, &format!("{SLICES}?watch=1")).await;
    server.stop().await;
    open.closed().await;
    faults.down().await;
    let again = Server::start(Config { plain: Some(address), tls: None, ..Config::default() }).unwrap();
    assert_eq!(again.plain_addr(), Some(address));
    let taken = Server::start(Config { plain: Some(address), tls: None, ..Config::default() }).unwrap_err();
    assert!(taken.to_string().contains(&address.to_string()), "{taken}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Server::start(Config { max_connections: 1, ..Config::default() }).unwrap();
    let mut first = Client::connect(&server).await;
    first.get("/version").await;
    let mut second = Client::connect(&server).await;
    second.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    first.get("/version").await;
    assert!(second.has_nothing());
    drop(first);
    assert_eq!(second.response().await.status, 200);
}
