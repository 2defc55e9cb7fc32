//! Flags and environment variables; a flag wins over its variable.

use std::net::SocketAddr;

use clap::Parser;
use reqwest::Url;

/// Answers with a store and, when asked, its pets: GET /petstore/{id}?includePets=BOOL.
///
/// The pets come from the service pet, through the sidecar. Logs go to standard error; LOG_FORMAT=json writes them as
/// JSON. Spans go to Zipkin when OTEL_EXPORTER_ZIPKIN_ENDPOINT says where (http://zipkin:9411/api/v2/spans).
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Settings {
    /// Where to listen. Keep it on loopback: the sidecar serves the outside.
    #[arg(long, env = "LISTEN_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen_addr: SocketAddr,

    /// The outbound listener of the sidecar, which finds pet by the Host header.
    #[arg(long, env = "SIDECAR_URL", value_name = "URL", default_value = "http://127.0.0.1:9900", value_parser = sidecar)]
    pub sidecar_url: Url,

    /// error, warn, info, debug or trace, or directives like info,petstore=debug [default: RUST_LOG, else info].
    #[arg(long, value_name = "LEVEL", value_parser = telemetry::level)]
    pub log_level: Option<String>,
}

/// Plain HTTP to a host: TLS between pods is the sidecars' business.
fn sidecar(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).map_err(|error| format!("{error}: expected a URL such as http://127.0.0.1:9900"))?;
    if url.scheme() != "http" || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("expected http, a host and a port, such as http://127.0.0.1:9900".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_is_plain_http_at_a_host() {
        for good in ["http://127.0.0.1:9900", "http://localhost:9900/", "http://[::1]:9900"] {
            assert!(sidecar(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:9900",
            "https://127.0.0.1:9900",
            "http://",
            "http://h/pets",
            "http://h?x",
            "unix:/x",
        ] {
            let error = sidecar(bad).expect_err(bad);
            assert!(error.contains("http://127.0.0.1:9900"), "{bad}: {error}");
        }
    }
}
