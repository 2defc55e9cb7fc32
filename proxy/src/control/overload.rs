//! The monitor of the overload manager: reads memory and connections, publishes what is to be done.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use crate::build::Graph;
use crate::memory::{Cgroup, Memory};
use crate::overload::{Config, Monitor, Resource, percent};
use crate::state::ServerState;
use crate::stats::{OverloadActionStats, OverloadMonitorStats, Registry, Scope};

/// Puts the overload manager of the first configuration in use, if there is one.
pub(super) fn start(graph: Option<&Graph>, state: &Arc<ServerState>, registry: &Registry) {
    let Some(config) = graph.and_then(|graph| graph.overload.clone()) else { return };
    state.overload.configure(&config);
    tokio::spawn(watch(config, Arc::clone(state), registry.clone()));
}

async fn watch(config: Arc<Config>, state: Arc<ServerState>, registry: Registry) {
    let mut watcher = Watcher::new(&config, &registry);
    let mut late = 0;
    loop {
        let begun = Instant::now();
        sleep(config.refresh).await;
        // What a busy machine left out is not made up for.
        let missed = begun.elapsed().as_millis() / config.refresh.as_millis().max(1);
        late += u64::try_from(missed).unwrap_or(u64::MAX).saturating_sub(1);
        watcher.refresh(&config, &state, std::mem::take(&mut late));
    }
}

/// What the monitors read, and where it is counted.
struct Watcher {
    cgroup: Option<Cgroup>,
    pressures: Vec<Option<f64>>,
    monitors: Vec<Arc<Scope<OverloadMonitorStats>>>,
    actions: Vec<Arc<Scope<OverloadActionStats>>>,
    shard: usize,
}

impl Watcher {
    fn new(config: &Config, registry: &Registry) -> Self {
        let prefix = |name: &str| format!("overload.{name}.");
        let shard = registry.control_shard();
        let watcher = Self {
            cgroup: Cgroup::of_process(),
            pressures: vec![None; config.monitors.len()],
            monitors: config.monitors.iter().map(|monitor| registry.scope(&prefix(&monitor.name))).collect(),
            actions: config.actions.iter().map(|rule| registry.scope(&prefix(&rule.name))).collect(),
            shard,
        };
        for scope in &watcher.actions {
            scope.shard(shard).action_active.set(0);
            scope.shard(shard).scale_percent.set(0);
        }
        watcher
    }

    fn refresh(&mut self, config: &Config, state: &ServerState, late: u64) {
        for (at, monitor) in config.monitors.iter().enumerate() {
            let stats = self.monitors[at].shard(self.shard);
            stats.skipped_updates.add(late);
            match self.pressure(monitor, state) {
                Some(pressure) => {
                    stats.pressure.set(shown(pressure));
                    self.pressures[at] = Some(pressure);
                }
                None => stats.failed_updates.inc(),
            }
        }
        let states: Vec<f64> = config.states(&self.pressures).collect();
        for ((scope, rule), now) in self.actions.iter().zip(&config.actions).zip(&states) {
            let stats = scope.shard(self.shard);
            let (active, before) = (*now > 0.0, stats.action_active.get() != 0);
            stats.action_active.set(i64::from(active));
            stats.scale_percent.set(percent(*now).into());
            if active != before {
                tracing::warn!(action = &*rule.name, active, "the overload manager changes an action");
            }
            if active && rule.shrinks_heap() {
                stats.shrink_count.inc();
            }
        }
        let relief = config.relief(states.into_iter());
        if state.overload.publish(relief) || relief.shrink {
            state.touch();
        }
    }

    /// The share of the resource that is used; `None` when it cannot be read.
    #[allow(clippy::cast_precision_loss)] // a share
    fn pressure(&self, monitor: &Monitor, state: &ServerState) -> Option<f64> {
        let share = |used: u64, max: u64| used as f64 / max.max(1) as f64;
        match monitor.resource {
            Resource::Heap { max } => match Memory::read().anonymous {
                0 => None,
                used => Some(share(used, max)),
            },
            Resource::Connections { max } => Some(share(state.overload.open(), max)),
            Resource::Cgroup { max } => {
                let cgroup = self.cgroup.as_ref()?;
                match cgroup.limit().into_iter().chain(max).min() {
                    Some(limit) => Some(share(cgroup.usage().ok()?, limit)),
                    None => Some(0.0),
                }
            }
        }
    }
}

/// A pressure in per cent.
#[allow(clippy::cast_possible_truncation)] // it saturates
fn shown(pressure: f64) -> i64 {
    (pressure * 100.0) as i64
}
