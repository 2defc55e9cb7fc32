//! The HTTP filters of a connection manager, their settings on routes, and the path of a request
//! through them.
//!
//! Forward for the request, backward for the response. Filters decide and never wait: what a filter
//! needs to wait for is a `FilterStatus`, and the exchange waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::pace::Pace;
use super::{cors, fault, health_check, local_rate_limit, rbac};
use crate::local_reply::LocalReply;
use crate::message::{RequestHead, ResponseHead};
use crate::stream_info::StreamInfo;

/// The filters before the router, in the file's order.
#[derive(Debug, Default)]
pub(crate) struct Chain(pub Vec<Filter>);

/// One filter.
#[derive(Debug)]
pub(crate) struct Filter {
    /// By which routes name it.
    pub name: Box<str>,
    /// Off, unless a route switches it on.
    pub disabled: bool,
    pub settings: Settings,
}

#[derive(Debug)]
pub(crate) enum Settings {
    Fault(fault::Fault),
    HealthCheck(health_check::HealthCheck),
    Cors(cors::Cors),
    /// `envoy.filters.http.buffer`: the largest body.
    Buffer(usize),
    LocalRateLimit(local_rate_limit::Limit),
    Rbac(rbac::Rbac),
}

/// The settings of filters on one level (table, virtual host, route, entry of a weighted cluster).
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    /// By the filter's name.
    pub by_name: Vec<(Box<str>, Override)>,
    /// The `cors` field of a route or virtual host, which counts when no level has a policy under the filter's name.
    pub cors: Option<Arc<cors::Policy>>,
}

/// The setting for one filter.
#[derive(Debug)]
pub(crate) struct Override {
    pub disabled: bool,
    pub settings: Option<RouteSettings>,
}

#[derive(Debug)]
pub(crate) enum RouteSettings {
    Fault(Box<fault::Settings>),
    Cors(Arc<cors::Policy>),
    /// `None`: bodies are not waited for.
    Buffer(Option<usize>),
    LocalRateLimit(Box<local_rate_limit::Limit>),
    Rbac(rbac::Engines),
}

/// The levels of a request's route that say something, the most specific one first.
pub(crate) type Levels<'x> = SmallVec<[&'x Overrides; 4]>;

/// What filters may know and change of an exchange.
pub(crate) struct Facts<'a> {
    pub request: &'a mut RequestHead,
    pub info: &'a mut StreamInfo,
    /// Whether the route sends the request to the cluster of that name.
    pub goes_to: &'a dyn Fn(&RequestHead, &str) -> bool,
    /// A new random number at each call.
    pub random: &'a dyn Fn() -> u64,
    pub now: Instant,
    /// The worker's shard of statistics.
    pub shard: usize,
    /// The proxy fails health checks on command.
    pub health_failed: bool,
    /// How many members a cluster has, and how many of them are healthy; `None` when there is no such cluster.
    pub membership: &'a dyn Fn(&str) -> Option<(u64, u64)>,
}

/// What filters may know when a response is about to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Responding {
    pub now: Instant,
    pub health_failed: bool,
}

/// What a filter wants done before the next one.
#[derive(Debug)]
pub(crate) enum FilterStatus {
    Continue,
    /// Wait, then ask the filter again.
    Wait(Duration),
    /// Wait until the whole request has come, but keep at most so many bytes of it.
    Hold(usize),
    /// Wait until the whole request has come, and forget its body; then ask the filter again.
    Discard,
    /// Respond in place of the upstream.
    Reply(LocalReply),
    /// Respond with this head and nothing else; what local replies become does not concern it.
    Respond(ResponseHead),
}

/// One request on its way through the filters.
pub(crate) struct Running<'x> {
    steps: SmallVec<[Step<'x>; 4]>,
}

enum Step<'x> {
    Fault(fault::Running<'x>),
    HealthCheck(health_check::Running<'x>),
    Cors(cors::Running<'x>),
    Buffer(usize),
    LocalRateLimit(local_rate_limit::Running<'x>),
    Rbac(rbac::Running<'x>),
}

impl Overrides {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.cors.is_none()
    }

    fn of(&self, name: &str) -> Option<&Override> {
        self.by_name.iter().find(|(filter, _)| **filter == *name).map(|(_, said)| said)
    }
}

impl Chain {
    /// The filters that run for a request on a route with these levels. `forwards`: the route leads to a cluster.
    pub(crate) fn begin<'x>(&'x self, levels: &Levels<'x>, forwards: bool) -> Running<'x> {
        let mut steps = SmallVec::new();
        for filter in &self.0 {
            let said = |level: &&'x Overrides| level.of(&filter.name);
            let disabled = levels.iter().find_map(said).map_or(filter.disabled, |said| said.disabled);
            if disabled {
                continue;
            }
            let own = levels.iter().filter_map(said).filter_map(|said| said.settings.as_ref());
            steps.extend(filter.settings.begin(own, levels, forwards));
        }
        Running { steps }
    }
}

impl Settings {
    /// `own` is what the levels set for this filter; settings of another kind are ignored, as in
    /// Envoy.
    fn begin<'x>(
        &'x self,
        mut own: impl Iterator<Item = &'x RouteSettings>,
        levels: &Levels<'x>,
        forwards: bool,
    ) -> Option<Step<'x>> {
        Some(match self {
            Self::Fault(fault) => Step::Fault(fault.begin(own.find_map(|own| match own {
                RouteSettings::Fault(own) => Some(&**own),
                _ => None,
            }))),
            Self::HealthCheck(check) => Step::HealthCheck(check.begin()),
            Self::Cors(cors) => Step::Cors(cors.begin(policies(own, levels, forwards))),
            Self::Buffer(limit) => {
                let own = own.find_map(|own| match own {
                    RouteSettings::Buffer(own) => Some(*own),
                    _ => None,
                });
                Step::Buffer(own.unwrap_or(Some(*limit))?)
            }
            Self::LocalRateLimit(limit) => {
                let own = own.find_map(|own| match own {
                    RouteSettings::LocalRateLimit(own) => Some(&**own),
                    _ => None,
                });
                Step::LocalRateLimit(own.unwrap_or(limit).begin())
            }
            Self::Rbac(rbac) => Step::Rbac(rbac.begin(own.find_map(|own| match own {
                RouteSettings::Rbac(own) => Some(own),
                _ => None,
            }))),
        })
    }
}

/// The CORS policies of a route: those under the filter's name, else the older fields; none for a route that responds by itself.
fn policies<'x>(
    own: impl Iterator<Item = &'x RouteSettings>,
    levels: &Levels<'x>,
    forwards: bool,
) -> cors::Policies<'x> {
    if !forwards {
        return cors::Policies::new();
    }
    let mut policies: cors::Policies<'x> = own
        .filter_map(|own| match own {
            RouteSettings::Cors(policy) => Some(&**policy),
            _ => None,
        })
        .collect();
    if policies.is_empty() {
        policies.extend(levels.iter().filter_map(|level| level.cors.as_deref()));
    }
    policies
}

impl Running<'_> {
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The decision of the filter at a place about the request's headers.
    pub(crate) fn request(&mut self, at: usize, facts: &mut Facts<'_>) -> FilterStatus {
        match self.steps.get_mut(at) {
            Some(Step::Fault(fault)) => fault.request(facts),
            Some(Step::HealthCheck(check)) => check.request(facts),
            Some(Step::Cors(cors)) => cors.request(facts),
            Some(Step::Buffer(limit)) => FilterStatus::Hold(*limit),
            Some(Step::LocalRateLimit(limit)) => limit.request(facts),
            Some(Step::Rbac(rbac)) => rbac.request(facts),
            None => FilterStatus::Continue,
        }
    }

    /// What the filter says when that for which it wanted to wait is over.
    pub(crate) fn resume(&mut self, at: usize, facts: &mut Facts<'_>) -> FilterStatus {
        match self.steps.get_mut(at) {
            Some(Step::Fault(fault)) => fault.resume(facts),
            Some(Step::HealthCheck(check)) => check.resume(facts),
            _ => FilterStatus::Continue,
        }
    }

    /// Changes the head of the response, from the last filter to the first.
    pub(crate) fn response(&mut self, response: &mut ResponseHead, responding: Responding) {
        for step in self.steps.iter_mut().rev() {
            match step {
                Step::Fault(_) | Step::Buffer(_) | Step::Rbac(_) => {}
                Step::HealthCheck(check) => check.response(response, responding),
                Step::Cors(cors) => cors.response(response),
                Step::LocalRateLimit(limit) => limit.response(response),
            }
        }
    }

    /// How fast the body of the response may go.
    pub(crate) fn pace(&mut self) -> Option<&mut Pace> {
        self.steps.iter_mut().find_map(|step| match step {
            Step::Fault(fault) => fault.pace.as_mut(),
            _ => None,
        })
    }
}

/// The text of a response, which may be a configured one.
pub(super) fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
