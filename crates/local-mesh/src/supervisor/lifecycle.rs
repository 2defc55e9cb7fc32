//! How pods go: step by step so that no caller loses a request, and the end of the whole mesh.
//!
//! A pod that leaves is first taken out of its Service and serves on until every caller has heard of it; then its app
//! ends, then its proxy, which the app's last requests may still need.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, timeout_at};

use super::{Ended, Event, Inbox, Mesh};
use crate::control::State;
use crate::error::Error;
use crate::pod::{APP_END, Kind, Leaving, PROXY_END, Phase, Pod, Slot, Step, Then};

/// After as many refresh delays every caller has heard of a change: polls are up to two delays apart, and one may just
/// have begun. So long a leaving pod serves, and so long its address rests.
pub(super) const HEARD_AFTER: u32 = 3;

/// Time for each of the two groups of processes at the end of the mesh, before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Time for the kernel to end what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// With nothing due the loop still looks around this often.
const IDLE: Duration = Duration::from_secs(3600);

impl Mesh {
    /// Does everything that is due now.
    pub(super) fn advance(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        for pod in &mut self.pods {
            step(pod, now);
        }
        for pod in self.pods.extract_if(.., |pod| is_gone(pod, Then::Remove)) {
            self.allocator.release(pod.address, now - self.began);
        }
        for pod in self.pods.iter_mut().filter(|pod| is_gone(pod, Then::Restart)) {
            revive(pod);
        }
        self.roll();
        match self.start_waiting() {
            // After the first start a pod that cannot start is that pod's misfortune, not the mesh's.
            Err(error) if self.booted => {
                tracing::error!(%error, "cannot start a process");
                Ok(())
            }
            result => result,
        }
    }

    /// When something is due next.
    pub(super) fn next_deadline(&self) -> Instant {
        let leaving = self.pods.iter().filter_map(|pod| match &pod.phase {
            Phase::Leaving(leaving) => Some(leaving.until),
            _ => None,
        });
        let boot = (!self.booted).then(|| self.began + self.options.start_timeout);
        leaving.chain(boot).min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// Begins the end of a pod. A crashed one has nothing to serve any more; `at_once` kills instead.
    pub(super) fn leave(&mut self, name: &str, then: Then, at_once: bool) {
        let serve = self.options.refresh_delay * HEARD_AFTER;
        let Some(pod) = self.pod_mut(name) else { return };
        let serves = matches!(pod.phase, Phase::Up) && pod.ready && !at_once;
        tracing::info!(pod = name, ?then, serves, at_once, "leaving");
        let until = if serves { Instant::now() + serve } else { Instant::now() };
        pod.phase = Phase::Leaving(Leaving { step: Step::Serving, until, then });
        if at_once {
            pod.processes().for_each(|process| process.signal(Signal::KILL));
        }
    }

    /// Restarts the next pod of a rolling restart once the one before is ready again (or has crashed, or gone).
    fn roll(&mut self) {
        if let Some((name, before)) = &self.rolling_now {
            let pod = self.pods.iter().find(|pod| pod.name == *name);
            let settled = pod.is_none_or(|pod| {
                pod.generation != *before && matches!(pod.state(), State::Ready | State::Crashed)
            });
            if !settled {
                return;
            }
        }
        self.rolling_now = None;
        let Some(name) = self.rolling.pop_front() else { return };
        let Some(pod) = self.pods.iter().find(|pod| pod.name == name) else { return };
        self.rolling_now = Some((name.clone(), pod.generation));
        self.leave(&name, Then::Restart, false);
    }

    /// Ends every process: first the proxies, which answer what is under way, then the apps and sds.
    /// Nothing is answered any more when the start has failed (`at_once`).
    pub(super) async fn end(&mut self, inbox: &mut Inbox, at_once: bool) -> Ended {
        let is_proxy = |_: &Pod, kind| kind == Kind::Proxy;
        let all = self.running(|_, _| true);
        self.end_to_end.take().inspect(tokio::task::AbortHandle::abort);
        for pod in &mut self.pods {
            pod.stop_probe();
            pod.phase =
                Phase::Leaving(Leaving { step: Step::Gone, until: Instant::now(), then: Then::Remove });
        }
        if !at_once {
            self.signal(Signal::TERM, is_proxy);
            self.wait(inbox, END_PATIENCE, is_proxy).await;
            // Nobody can call any more: the second signal spares the apps their wait for stragglers.
            self.signal(Signal::TERM, |_, _| true);
            self.signal(Signal::INT, |_, _| true);
            self.wait(inbox, END_PATIENCE, |_, _| true).await;
        }
        let left = self.running(|_, _| true);
        self.signal(Signal::KILL, |_, _| true);
        self.wait(inbox, KILL_PATIENCE, |_, _| true).await;
        Ended { orderly: all - left, killed: left }
    }

    fn signal(&self, signal: Signal, which: impl Fn(&Pod, Kind) -> bool) {
        for pod in &self.pods {
            let kinds = [Kind::App, Kind::Proxy].into_iter().filter(|kind| which(pod, *kind));
            kinds.filter_map(|kind| pod.slot(kind).process()).for_each(|process| process.signal(signal));
        }
    }

    fn running(&self, which: impl Fn(&Pod, Kind) -> bool) -> usize {
        let running = |pod: &Pod| {
            [Kind::App, Kind::Proxy]
                .into_iter()
                .filter(|kind| which(pod, *kind) && pod.slot(*kind).runs())
                .count()
        };
        self.pods.iter().map(running).sum()
    }

    async fn wait(&mut self, inbox: &mut Inbox, patience: Duration, which: impl Fn(&Pod, Kind) -> bool) {
        let until = Instant::now() + patience;
        while self.running(&which) > 0 {
            let Ok(Some(event)) = timeout_at(until, inbox.events.recv()).await else { return };
            if let Event::Exited { pod, kind, generation, .. } = event
                && let Some(pod) = self.pod_mut(&pod).filter(|pod| pod.generation == generation)
            {
                *pod.slot_mut(kind) = Slot::Ended;
            }
        }
    }
}

/// Moves a leaving pod as far as it goes now.
fn step(pod: &mut Pod, now: Instant) {
    while let Phase::Leaving(leaving) = &pod.phase {
        let (step, due) = (leaving.step, now >= leaving.until);
        let (ended, next, patience) = match step {
            Step::Serving => (due, Step::App, APP_END),
            Step::App => (!pod.app.runs(), Step::Proxy, PROXY_END),
            Step::Proxy => (!pod.proxy.runs(), Step::Gone, Duration::ZERO),
            Step::Gone => return,
        };
        if !ended {
            if due {
                kill_late(pod, step, now);
            }
            return;
        }
        let process = match next {
            Step::App => pod.app.process(),
            Step::Proxy => pod.proxy.process(),
            Step::Serving | Step::Gone => None,
        };
        if let Some(process) = process {
            process.signal(Signal::TERM);
            // A stopped process would sleep on its signal.
            process.signal(Signal::CONT);
        }
        if next == Step::App {
            pod.stop_probe();
        }
        if let Phase::Leaving(leaving) = &mut pod.phase {
            leaving.step = next;
            leaving.until = now + patience;
        }
    }
}

/// A process that did not end in time is killed, and waited for once more.
fn kill_late(pod: &mut Pod, step: Step, now: Instant) {
    let kind = if step == Step::App { Kind::App } else { Kind::Proxy };
    tracing::warn!(pod = pod.name, container = kind.name(), "did not end in time and is killed");
    if let Some(process) = pod.slot(kind).process() {
        process.signal(Signal::KILL);
    }
    if let Phase::Leaving(leaving) = &mut pod.phase {
        leaving.until = now + KILL_PATIENCE;
    }
}

fn is_gone(pod: &Pod, then: Then) -> bool {
    matches!(&pod.phase, Phase::Leaving(leaving) if leaving.step == Step::Gone && leaving.then == then)
}

/// The same name and address, new processes, a new endpoint.
fn revive(pod: &mut Pod) {
    let generation = pod.generation + 1;
    *pod = Pod { generation, ..Pod::new(pod.name.clone(), pod.service, pod.address) };
}
