//! Ranges of IP addresses, as Envoy's `CidrRange` gives them. Pure.
//!
//! Calls nothing of ours.

use std::net::IpAddr;

/// The addresses whose first bits are those of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Bits beyond the prefix do not count; a prefix longer than the address is the whole address.
    pub fn new(address: IpAddr, bits: u32) -> Self {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = u8::try_from(bits.min(most)).unwrap_or(128);
        Self { first: masked(address, bits), bits }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.bits) == self.first
    }

    /// The length of the prefix: a longer one is more specific.
    pub fn bits(self) -> u8 {
        self.bits
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_first_and_last_address_and_no_other() {
        let range = Cidr::new("10.1.2.3".parse().unwrap(), 23);
        for (address, inside) in
            [("10.1.2.0", true), ("10.1.3.255", true), ("10.1.4.0", false), ("10.1.1.255", false)]
        {
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(Cidr::new("0.0.0.0".parse().unwrap(), 0).contains("255.0.0.1".parse().unwrap()));
        assert!(!Cidr::new("0.0.0.0".parse().unwrap(), 0).contains("::1".parse().unwrap()));
        assert!(Cidr::new("fd00::1".parse().unwrap(), 8).contains("fdff::".parse().unwrap()));
    }
}
