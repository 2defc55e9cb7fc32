//! The version of a list of endpoints: a hash of its content.
//!
//! FNV-1a with 128 bits, written out here because it must never change between builds: a hash that does would make every
//! proxy fetch everything after an upgrade. No defence against forgery is needed.

use std::net::IpAddr;

use crate::translate::Endpoint;

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// 32 hexadecimal digits.
pub(super) fn of(endpoints: &[Endpoint]) -> String {
    let mut hash = OFFSET;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    };
    for endpoint in endpoints {
        match endpoint.address {
            IpAddr::V4(address) => add(&address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => add(&address.octets()),
        }
        add(&endpoint.port.to_be_bytes());
        add(&endpoint.weight.to_be_bytes());
        add(&[u8::from(endpoint.canary)]);
        add(&(endpoint.zone.len() as u64).to_be_bytes());
        add(endpoint.zone.as_bytes());
    }
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::Health;

    fn endpoint(address: &str, zone: &str) -> Endpoint {
        Endpoint {
            address: address.parse().unwrap(),
            port: 10000,
            zone: zone.into(),
            canary: false,
            weight: 1,
            health: Health::default(),
        }
    }

    #[test]
    fn versions_stay_the_same_between_builds() {
        assert_eq!(of(&[]), "6c62272e07bb014262b821756295c58d");
        assert_eq!(of(&[endpoint("10.20.0.12", "zone-a")]), "e92fa89e4b37feeb516e4182c724db85");
    }

    #[test]
    fn each_field_counts() {
        let base = endpoint("10.0.0.1", "a");
        let mut seen = std::collections::BTreeSet::from([of(std::slice::from_ref(&base))]);
        for other in [
            Endpoint { address: "10.0.0.2".parse().unwrap(), ..base.clone() },
            Endpoint { port: 1, ..base.clone() },
            Endpoint { zone: "b".into(), ..base.clone() },
            Endpoint { canary: true, ..base.clone() },
            Endpoint { weight: 2, ..base.clone() },
        ] {
            assert!(seen.insert(of(&[other])), "a change has not changed the version");
        }
    }
}
