//! A case: one configuration and the exchanges over it. Cases are kept as YAML files.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::configuration::Configuration;
use crate::upstream::{Script, is_default};

/// One configuration and what is sent through it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What the case shows, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    pub configuration: Configuration,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exchanges: Vec<Exchange>,
}

/// The requests of one client connection, and what the upstream does with each attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub requests: Vec<Request>,
    /// All requests are sent before the first response is read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pipelined: bool,
    /// The client speaks HTTP/2.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http2: bool,
    /// The client goes away when the upstream has got the last request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub abort: bool,
    #[serde(default)]
    pub upstream: Vec<Script>,
}

/// One request, in parts that can be taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub line: String,
    #[serde(default)]
    pub headers: Vec<String>,
    /// As it is sent: with chunk sizes where the headers say so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// Of HTTP/2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trailers: Vec<String>,
}

impl Request {
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for header in &self.headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        latin(&text)
    }

    pub fn is_head(&self) -> bool {
        self.line.starts_with("HEAD ")
    }
}

/// Text as bytes, one character a byte: how a case holds bytes.
pub fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect()
}

impl Case {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
    }

    /// JSON is YAML too, and is written without a library of its own.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
