//! The v1 discovery answer, as Envoy of 2017 reads it: JSON, shared by sds (writes) and proxy (reads).

use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/registration/{service}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub hosts: Vec<Host>,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// An IP address, never a name.
    pub ip_address: String,
    pub port: u16,
    /// Always written: old Envoys do not register a host without tags.
    #[serde(default)]
    pub tags: Tags,
}

/// What is known about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tags {
    /// Availability zone, empty when unknown.
    pub az: String,
    pub canary: bool,
    /// 1 to 100.
    pub load_balancing_weight: u32,
}

impl Default for Tags {
    fn default() -> Self {
        Self { az: String::new(), canary: false, load_balancing_weight: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_always_written_and_may_be_absent_when_read() {
        let host = Host { ip_address: "10.0.0.1".into(), port: 10000, tags: Tags::default() };
        let text = serde_json::to_string(&Registration { hosts: vec![host.clone()] }).unwrap();
        assert_eq!(
            text,
            r#"{"hosts":[{"ip_address":"10.0.0.1","port":10000,"tags":{"az":"","canary":false,"load_balancing_weight":1}}]}"#
        );
        let bare = r#"{"hosts":[{"ip_address":"10.0.0.1","port":10000}]}"#;
        assert_eq!(serde_json::from_str::<Registration>(bare).unwrap().hosts, [host]);
    }
}
