//! The commands to a running mesh: ps, scale, kill, restart, down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use local_mesh::Error;
use local_mesh::control::{Reply, Request, State, Status, send, status};
use local_mesh::dir::Dir;

use crate::args::Output;
use crate::table;

/// How long `scale` and `restart` watch a service become what was asked.
const SETTLE: Duration = Duration::from_secs(120);

/// How long the supervisor may take from its last word to its end.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// How often they look.
const LOOK: Duration = Duration::from_millis(20);

/// Prints the pods.
pub fn ps(dir: &Dir, output: Option<Output>) -> Result<()> {
    let status = status(dir)?;
    match output {
        Some(Output::Json) => println!("{}", serde_json::to_string_pretty(&status)?),
        None => print!("{}", table::pods(&status)),
    }
    Ok(())
}

/// Brings a service to a number of pods and waits for it.
pub fn scale(dir: &Dir, service: &str, replicas: u32, now: bool) -> Result<()> {
    ask(dir, &Request::Scale { service: service.to_owned(), replicas, now })?;
    settle(dir, |pod| pod.service == service)
}

/// Sends a signal to a pod.
pub fn kill(dir: &Dir, pod: String, signal: String) -> Result<()> {
    ask(dir, &Request::Kill { pod, signal })
}

/// Restarts a pod or all pods of a service and waits for it.
pub fn restart(dir: &Dir, name: &str) -> Result<()> {
    ask(dir, &Request::Restart { name: name.to_owned() })?;
    settle(dir, |pod| pod.name == name || pod.service == name)
}

/// Makes the Kubernetes API misbehave, or behave again.
pub fn fault(dir: &Dir, fault: String) -> Result<()> {
    ask(dir, &Request::Fault { fault })
}

/// Stops the mesh; without one that is done already.
pub fn down(dir: &Dir) -> Result<()> {
    let last = dir.last_supervisor();
    match send(dir, &Request::Down) {
        Ok(Reply::Done(text)) => {
            wait_for_end(dir)?;
            println!("the mesh is down: {text}");
        }
        Ok(other) => bail!("unexpected answer {other:?}"),
        Err(Error::NotRunning(_)) => {
            if dir.is_ours() {
                dir.clear_state()?;
            }
            match last {
                Some(pid) => println!(
                    "no mesh is running: the supervisor (process {pid}) was killed, and its processes with it"
                ),
                None => println!("no mesh is running"),
            }
        }
        Err(error) => bail!(error),
    }
    Ok(())
}

fn wait_for_end(dir: &Dir) -> Result<()> {
    let until = Instant::now() + LAST_BREATH;
    while dir.is_taken() {
        if Instant::now() > until {
            bail!("every pod has ended, but the supervisor has not; see {}", dir.supervisor_log().display());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn ask(dir: &Dir, request: &Request) -> Result<()> {
    match send(dir, request)? {
        Reply::Done(text) => println!("{text}"),
        other => bail!("unexpected answer {other:?}"),
    }
    Ok(())
}

/// Tells what becomes of the pods until all of them are at rest.
fn settle(dir: &Dir, which: impl Fn(&local_mesh::control::Pod) -> bool) -> Result<()> {
    let until = Instant::now() + SETTLE;
    let mut known: BTreeMap<String, State> = BTreeMap::new();
    loop {
        let now: Status = status(dir)?;
        let pods: Vec<_> = now.pods.iter().filter(|pod| which(pod)).collect();
        for pod in &pods {
            if known.insert(pod.name.clone(), pod.state) != Some(pod.state) {
                println!("  {:<12} {}", pod.name, pod.state);
            }
        }
        known.retain(|name, _| {
            let stays = pods.iter().any(|pod| pod.name == *name);
            if !stays {
                println!("  {name:<12} gone");
            }
            stays
        });
        // What a pod is before its restart says nothing about the restart.
        let waits = |pod: &local_mesh::control::Pod| now.restarting.contains(&pod.name);
        if let Some(pod) = pods.iter().find(|pod| pod.state == State::Crashed && !waits(pod)) {
            bail!("{} has crashed: {}", pod.name, pod.reason.as_deref().unwrap_or("unknown reason"));
        }
        if pods.iter().all(|pod| pod.state == State::Ready && !waits(pod)) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("not at rest after {} s; `petmesh ps` shows the pods", SETTLE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}
