//! What is known of a host's health: Envoy's flags, and what they come to for balancing.

use super::Health;

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFlags(u16);

/// One flag; printed in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum HealthFlag {
    FailedActiveHc = 1,
    FailedOutlierCheck = 1 << 1,
    FailedEdsHealth = 1 << 2,
    DegradedActiveHc = 1 << 3,
    DegradedEdsHealth = 1 << 4,
    /// Discovery removed it; it stays for as long as it passes its health checks.
    PendingDynamicRemoval = 1 << 5,
    /// Not checked yet, and left out of every sum until then.
    PendingActiveHc = 1 << 6,
    /// It said itself that it is not to be used: left out of every sum.
    ExcludedViaImmediateHcFail = 1 << 7,
    /// The last health check timed out.
    ActiveHcTimeout = 1 << 8,
    EdsStatusDraining = 1 << 9,
}

/// What the flags come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coarse {
    Healthy,
    Degraded,
    Unhealthy,
}

impl HealthFlag {
    /// Every flag with its name in `/clusters`.
    pub(crate) const ALL: [(Self, &'static str); 10] = [
        (Self::FailedActiveHc, "failed_active_hc"),
        (Self::FailedOutlierCheck, "failed_outlier_check"),
        (Self::FailedEdsHealth, "failed_eds_health"),
        (Self::DegradedActiveHc, "degraded_active_hc"),
        (Self::DegradedEdsHealth, "degraded_eds_health"),
        (Self::PendingDynamicRemoval, "pending_dynamic_removal"),
        (Self::PendingActiveHc, "pending_active_hc"),
        (Self::ExcludedViaImmediateHcFail, "excluded_via_immediate_hc_fail"),
        (Self::ActiveHcTimeout, "active_hc_timeout"),
        (Self::EdsStatusDraining, "eds_status_draining"),
    ];
}

impl HealthFlags {
    pub(crate) fn has(self, flag: HealthFlag) -> bool {
        self.0 & flag as u16 != 0
    }

    pub(crate) fn set(&mut self, flag: HealthFlag, on: bool) {
        if on {
            self.0 |= flag as u16;
        } else {
            self.0 &= !(flag as u16);
        }
    }

    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What discovery says.
    pub(crate) fn of_discovery(health: Health) -> Self {
        match health {
            Health::Healthy => Self::default(),
            Health::Degraded => Self(HealthFlag::DegradedEdsHealth as u16),
            Health::Unhealthy | Health::Timeout => Self(HealthFlag::FailedEdsHealth as u16),
            Health::Draining => Self(HealthFlag::EdsStatusDraining as u16),
        }
    }

    pub(crate) fn coarse(self) -> Coarse {
        use HealthFlag::{
            DegradedActiveHc, DegradedEdsHealth, EdsStatusDraining, FailedActiveHc, FailedEdsHealth,
            FailedOutlierCheck,
        };
        if [FailedActiveHc, FailedOutlierCheck, FailedEdsHealth, EdsStatusDraining]
            .into_iter()
            .any(|flag| self.has(flag))
        {
            Coarse::Unhealthy
        } else if self.has(DegradedActiveHc) || self.has(DegradedEdsHealth) {
            Coarse::Degraded
        } else {
            Coarse::Healthy
        }
    }

    /// Whether a host counts in no sum: neither toward panic nor toward the share of its priority.
    pub(crate) fn is_excluded(self) -> bool {
        use HealthFlag::{EdsStatusDraining, ExcludedViaImmediateHcFail, PendingActiveHc};
        [PendingActiveHc, ExcludedViaImmediateHcFail, EdsStatusDraining]
            .into_iter()
            .any(|flag| self.has(flag))
    }

    /// Whether requests or checks found it failing, so that its connections are worth nothing.
    pub(crate) fn is_failing(self) -> bool {
        self.has(HealthFlag::FailedActiveHc) || self.has(HealthFlag::FailedOutlierCheck)
    }
}

impl std::fmt::Display for HealthFlags {
    /// As Envoy's `/clusters` prints them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("healthy");
        }
        HealthFlag::ALL
            .iter()
            .filter(|(flag, _)| self.has(*flag))
            .try_for_each(|(_, name)| write!(f, "/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_printed_as_envoy_prints_them() {
        assert_eq!(HealthFlags::default().to_string(), "healthy");
        let mut flags = HealthFlags::of_discovery(Health::Draining);
        flags.set(HealthFlag::FailedActiveHc, true);
        assert_eq!(flags.to_string(), "/failed_active_hc/eds_status_draining");
    }

    #[test]
    fn a_host_on_its_way_out_is_as_healthy_as_it_was() {
        let mut flags = HealthFlags::default();
        flags.set(HealthFlag::PendingDynamicRemoval, true);
        assert_eq!(flags.coarse(), Coarse::Healthy);
        assert!(!flags.is_excluded());
    }
}
