//! A span as Zipkin's JSON (API v2). The proxy and the services write it alike.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

/// One span.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span<'a> {
    pub trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub name: &'a str,
    /// Microseconds, like the duration.
    pub timestamp: u64,
    pub duration: u64,
    pub local_endpoint: Endpoint<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_endpoint: Option<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<Annotation>,
    pub tags: BTreeMap<Cow<'a, str>, String>,
    /// The caller's span has the same id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// A service, and where it was reached.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint<'a> {
    pub service_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Something that happened at a moment.
#[derive(Debug, Serialize)]
pub struct Annotation {
    pub timestamp: u64,
    pub value: &'static str,
}

impl<'a> Endpoint<'a> {
    /// A service whose address says nothing.
    #[must_use]
    pub fn named(service_name: &'a str) -> Self {
        Self { service_name, ..Self::default() }
    }

    #[must_use]
    pub fn at(service_name: &'a str, ip: IpAddr, port: u16) -> Self {
        let text = Some(ip.to_string());
        let (ipv4, ipv6) = if ip.is_ipv4() { (text, None) } else { (None, text) };
        Self { service_name, ipv4, ipv6, port: Some(port) }
    }
}

/// A time in Zipkin's unit.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
