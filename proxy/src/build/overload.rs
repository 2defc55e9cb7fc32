//! The overload manager -> `overload::Config`.

use std::time::Duration;

use xds::Any;
use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::envoy::config::overload::v3::resource_monitor::ConfigType;
use xds::envoy::config::overload::v3::scale_timers_overload_action_config::scale_timer::OverloadAdjust;
use xds::envoy::config::overload::v3::scale_timers_overload_action_config::{ScaleTimer, TimerType};
use xds::envoy::config::overload::v3::trigger::TriggerOneof;
use xds::envoy::config::overload::v3::{
    OverloadAction, OverloadManager, ResourceMonitor, ScaleTimersOverloadActionConfig, ShrinkHeapConfig,
    Trigger as TriggerMessage,
};
use xds::envoy::extensions::resource_monitors::cgroup_memory::v3::CgroupMemoryConfig;
use xds::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use xds::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;

use super::place::{Code, Extension, Place};
use super::{Cx, values};

use crate::overload::{Action, Config, Least, Monitor, Resource, Rule, Timers, Trigger};

const ACTIONS: [(&str, Action); 6] = [
    ("envoy.overload_actions.stop_accepting_connections", Action::StopAcceptingConnections),
    ("envoy.overload_actions.reject_incoming_connections", Action::RejectIncomingConnections),
    ("envoy.overload_actions.stop_accepting_requests", Action::StopAcceptingRequests),
    ("envoy.overload_actions.disable_http_keepalive", Action::DisableHttpKeepalive),
    ("envoy.overload_actions.reduce_timeouts", Action::ReduceTimeouts),
    ("envoy.overload_actions.shrink_heap", Action::ShrinkHeap),
];

/// The overload manager of a file; `None` without one.
pub(super) fn config(cx: &mut Cx<'_>, bootstrap: &Bootstrap) -> Option<Config> {
    let message = bootstrap.overload_manager.as_ref()?;
    let place = Place::ROOT.field("overload_manager");
    let refresh = values::duration(message.refresh_interval.as_ref()).unwrap_or(Duration::from_secs(1));
    let mut config = Config { refresh, ..Config::default() };
    for (at, monitor) in message.resource_monitors.iter().enumerate() {
        let place = place.item("resource_monitors", at);
        if config.monitors.iter().any(|other| *other.name == monitor.name) {
            let text = format!("the resource monitor `{}` is there already", monitor.name);
            cx.error(&place.field("name"), Code::Structure, text);
        } else if let Some(resource) = resource(cx, &place, monitor) {
            config.monitors.push(Monitor { name: monitor.name.as_str().into(), resource });
        }
    }
    for (at, action) in message.actions.iter().enumerate() {
        let place = place.item("actions", at);
        if config.actions.iter().any(|other| *other.name == action.name) {
            let text = format!("the overload action `{}` is there already", action.name);
            cx.error(&place.field("name"), Code::Structure, text);
        } else if let Some((kind, timers)) = kind(cx, &place, action) {
            if let Some(timers) = timers {
                config.timers = timers;
            }
            let triggers = triggers(cx, &place, message, &config.monitors, &action.triggers);
            config.actions.push(Rule { name: action.name.as_str().into(), action: kind, triggers });
        }
    }
    Some(config)
}

fn resource(cx: &mut Cx<'_>, place: &Place<'_>, monitor: &ResourceMonitor) -> Option<Resource> {
    let any = monitor.config_type.as_ref().map(|ConfigType::TypedConfig(any)| any);
    let found = match monitor.name.as_str() {
        "envoy.resource_monitors.fixed_heap" => any
            .and_then(|any| xds::decode_any::<FixedHeapConfig>(any).ok())
            .map(|message| Resource::Heap { max: message.max_heap_size_bytes }),
        "envoy.resource_monitors.cgroup_memory" => any
            .and_then(|any| xds::decode_any::<CgroupMemoryConfig>(any).ok())
            .map(|message| Resource::Cgroup { max: message.max_memory_bytes }),
        "envoy.resource_monitors.global_downstream_max_connections" => any
            .and_then(|any| xds::decode_any::<DownstreamConnectionsConfig>(any).ok())
            .and_then(|message| u64::try_from(message.max_active_downstream_connections).ok())
            .map(|max| Resource::Connections { max }),
        name => {
            cx.findings.no_extension(&place.field("name"), Extension::RESOURCE_MONITOR, name, None).suggest(
                "use envoy.resource_monitors.fixed_heap, envoy.resource_monitors.cgroup_memory or \
                 envoy.resource_monitors.global_downstream_max_connections",
            );
            return None;
        }
    };
    if found.is_none() {
        let text = format!("the resource monitor `{}` needs its configuration", monitor.name);
        cx.error(place, Code::MissingField, text).suggest("add its `typed_config`");
    }
    found
}

/// Which action it is, and the timers of one that has them.
fn kind(cx: &mut Cx<'_>, place: &Place<'_>, action: &OverloadAction) -> Option<(Action, Option<Timers>)> {
    let Some((_, kind)) = ACTIONS.iter().find(|(name, _)| *name == action.name) else {
        let text = format!("the overload action `{}` is not implemented", action.name);
        let names = ACTIONS.map(|(name, _)| name);
        let nearest = xds::nearest(&action.name, names.into_iter());
        let remedy = nearest.map_or_else(
            || format!("use one of {}", names.join(", ")),
            |name| format!("did you mean `{name}`?"),
        );
        cx.error(&place.field("name"), Code::NotImplemented, text).suggest(remedy);
        return None;
    };
    let config = place.field("typed_config");
    let fits = match (kind, &action.typed_config) {
        (Action::ReduceTimeouts, Some(any)) => return Some((*kind, Some(timers(cx, &config, any)?))),
        (Action::ReduceTimeouts, None) => {
            let text = format!("the overload action `{}` needs its configuration", action.name);
            cx.error(place, Code::MissingField, text).suggest("add `typed_config` with timer_scale_factors");
            return None;
        }
        (Action::ShrinkHeap, Some(any)) => xds::decode_any::<ShrinkHeapConfig>(any).is_ok(),
        (_, any) => any.is_none(),
    };
    if !fits {
        let text = format!("the overload action `{}` has no such configuration", action.name);
        cx.error(&config, Code::Structure, text).suggest("remove it");
    }
    Some((*kind, None))
}

fn timers(cx: &mut Cx<'_>, place: &Place<'_>, any: &Any) -> Option<Timers> {
    let Ok(message) = xds::decode_any::<ScaleTimersOverloadActionConfig>(any) else {
        cx.error(place, Code::Structure, "this is not the configuration of reduce_timeouts")
            .suggest("use envoy.config.overload.v3.ScaleTimersOverloadActionConfig");
        return None;
    };
    let mut timers = Timers::default();
    for (at, factor) in message.timer_scale_factors.iter().enumerate() {
        let place = place.item("timer_scale_factors", at);
        let timer = match factor.timer() {
            TimerType::HttpDownstreamConnectionIdle => &mut timers.connection_idle,
            TimerType::HttpDownstreamStreamIdle => &mut timers.stream_idle,
            _ => {
                cx.error(&place.field("timer"), Code::BadValue, "the timer must be named")
                    .suggest("HTTP_DOWNSTREAM_CONNECTION_IDLE or HTTP_DOWNSTREAM_STREAM_IDLE");
                continue;
            }
        };
        if timer.is_some() {
            cx.error(&place.field("timer"), Code::Structure, "this timer has a factor already");
        }
        *timer = least(factor);
    }
    Some(timers)
}

fn least(factor: &ScaleTimer) -> Option<Least> {
    match factor.overload_adjust.as_ref()? {
        OverloadAdjust::MinTimeout(timeout) => Duration::try_from(*timeout).ok().map(Least::Timeout),
        OverloadAdjust::MinScale(percent) => Some(Least::Share(percent.value / 100.0)),
    }
}

fn triggers(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &OverloadManager,
    monitors: &[Monitor],
    triggers: &[TriggerMessage],
) -> Vec<(usize, Trigger)> {
    let mut found: Vec<(usize, Trigger)> = Vec::with_capacity(triggers.len().min(monitors.len()));
    for (at, trigger) in triggers.iter().enumerate() {
        let place = place.item("triggers", at);
        let Some(monitor) = monitors.iter().position(|monitor| *monitor.name == trigger.name) else {
            // One that is not implemented was reported at its own place.
            if !message.resource_monitors.iter().any(|monitor| monitor.name == trigger.name) {
                let text = format!("there is no resource monitor `{}`", trigger.name);
                let names = monitors.iter().map(|monitor| &*monitor.name);
                let nearest = xds::nearest(&trigger.name, names);
                let finding = cx.error(&place.field("name"), Code::Reference, text);
                finding.suggestion = nearest.map(|name| format!("did you mean `{name}`?"));
            }
            continue;
        };
        if found.iter().any(|(other, _)| *other == monitor) {
            let text = format!("the action has a trigger for `{}` already", trigger.name);
            cx.error(&place.field("name"), Code::Structure, text);
        }
        match &trigger.trigger_oneof {
            Some(TriggerOneof::Threshold(threshold)) => {
                found.push((monitor, Trigger::Threshold(threshold.value)));
            }
            Some(TriggerOneof::Scaled(scaled)) => {
                let (from, to) = (scaled.scaling_threshold, scaled.saturation_threshold);
                if from >= to {
                    let text = "saturation_threshold must be greater than scaling_threshold";
                    cx.error(&place.field("scaled"), Code::BadValue, text);
                }
                found.push((monitor, Trigger::Scaled { from, to }));
            }
            // The reader has asked for one.
            None => {}
        }
    }
    found
}
