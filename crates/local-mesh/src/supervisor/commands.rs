//! What clients may ask of a running mesh.

use kube_api::On;

use super::Mesh;
use super::start::{check_count, known_service};
use crate::control::{Reply, Request};
use crate::error::Error;
use crate::pod::{Pod, Then};
use crate::process::parse_signal;

impl Mesh {
    /// Does or begins what is asked, and says in words what that is.
    pub(super) async fn command(&mut self, request: &Request) -> Reply {
        let done = match request {
            Request::Status => return Reply::Status(self.status()),
            Request::Scale { service, replicas, now } => self.scale(service, *replicas, *now),
            Request::Kill { pod, signal } => self.kill(pod, signal),
            Request::Restart { name } => self.restart(name),
            Request::Fault { fault } => self.fault(fault).await,
            Request::Down => Err(Error::Refused("the mesh is ending".to_owned())),
        };
        done.map_or_else(|error| Reply::Refused(error.to_string()), Reply::Done)
    }

    /// Crashed pods are forgotten first: the number is that of living ones. The youngest leave.
    fn scale(&mut self, name: &str, replicas: u32, now: bool) -> Result<String, Error> {
        let service = known_service(name)?;
        check_count(service, replicas)?;
        let crashed: Vec<String> = self
            .pods
            .iter()
            .filter(|pod| pod.service == service && pod.has_crashed())
            .map(|pod| pod.name.clone())
            .collect();
        for pod in &crashed {
            self.leave(pod, Then::Remove, true);
        }
        let living: Vec<String> = self
            .pods
            .iter()
            .filter(|pod| pod.service == service && pod.is_replica())
            .map(|pod| pod.name.clone())
            .collect();
        let wanted = replicas as usize;
        let leaving: Vec<String> = living.iter().skip(wanted).cloned().collect();
        for pod in &leaving {
            self.leave(pod, Then::Remove, now);
        }
        let mut new = Vec::new();
        for _ in living.len()..wanted {
            new.push(self.create_pod(service)?);
        }
        let said = [("starting", &new), ("leaving", &leaving), ("forgotten, for they had crashed", &crashed)];
        let said: Vec<String> = said
            .iter()
            .filter(|(_, pods)| !pods.is_empty())
            .map(|(what, pods)| format!("{}: {what}", pods.join(", ")))
            .collect();
        if said.is_empty() { Ok(format!("{name} has {replicas} already")) } else { Ok(said.join("; ")) }
    }

    fn kill(&mut self, name: &str, signal: &str) -> Result<String, Error> {
        let number = parse_signal(signal).map_err(Error::Refused)?;
        let pod = self.known_pod(name)?;
        let processes: Vec<u32> = pod
            .processes()
            .map(|process| {
                process.signal(number);
                process.pid
            })
            .collect();
        if processes.is_empty() {
            return Err(Error::Refused(format!("{name} has no running process ({})", pod.state())));
        }
        let pids: Vec<String> = processes.iter().map(ToString::to_string).collect();
        Ok(format!("{name}: signal {} sent to {}", signal.to_ascii_uppercase(), pids.join(", ")))
    }

    fn restart(&mut self, name: &str) -> Result<String, Error> {
        let pods: Vec<String> = match crate::plan::service(name) {
            Some(service) => self
                .pods
                .iter()
                .filter(|pod| pod.service == service && !pod.is_leaving())
                .map(|pod| pod.name.clone())
                .collect(),
            None => vec![self.known_pod(name)?.name.clone()],
        };
        if pods.is_empty() {
            return Err(Error::Refused(format!("{name} has no pod; `petmesh scale {name}=1` starts one")));
        }
        self.rolling.extend(pods.iter().cloned());
        Ok(format!("restarting {}", pods.join(", then ")))
    }

    async fn fault(&mut self, name: &str) -> Result<String, Error> {
        let fault = match (name, name.parse()) {
            ("none" | "unready", _) => Fault::None,
            ("down", _) => Fault::Down,
            ("no-dns", _) => Fault::NoDns,
            (_, Ok(status @ 400..=599)) => Fault::Status(status),
            _ => {
                let text =
                    "there are none, down, unready, no-dns, and a status of the Kubernetes API (400 to 599)";
                return Err(Error::Refused(format!("unknown fault {name}; {text}")));
            }
        };
        // Before the API server is back, so that these are its first words.
        self.unready = name == "unready";
        self.publish();
        let faults = self.kubernetes.faults();
        match fault {
            Fault::None => {
                self.names.set_mute(false);
                faults.clear();
                faults.up().await;
            }
            Fault::Down => faults.down().await,
            Fault::NoDns => self.names.set_mute(true),
            Fault::Status(status) => {
                faults.clear();
                faults.fail_next(u32::MAX, status, On::All);
                faults.cut();
            }
        }
        Ok(format!("fault {name}"))
    }

    fn known_pod(&self, name: &str) -> Result<&Pod, Error> {
        self.pods.iter().find(|pod| pod.name == name).ok_or_else(|| Error::Unknown {
            kind: "pod",
            name: name.to_owned(),
            existing: self.pods.iter().map(|pod| pod.name.clone()).collect(),
        })
    }
}

/// What the Kubernetes API and DNS do wrong.
enum Fault {
    None,
    Down,
    NoDns,
    Status(u16),
}
