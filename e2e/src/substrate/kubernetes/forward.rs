//! Port-forwards to single pods, for ports on a pod's own loopback: the admin interface, the outbound listener.
//!
//! The load never goes through one: a forward belongs to one pod and ends with it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::Mutex;

use super::kubectl::Kubectl;

/// How long kubectl may take to open one.
const PATIENCE: Duration = Duration::from_secs(30);

/// The forwards of one mesh; they end with this value.
#[derive(Default)]
pub struct Forwards {
    open: Mutex<HashMap<(String, u16), (SocketAddr, Child)>>,
}

impl Forwards {
    /// Where a port of a pod is reached from here.
    pub async fn to(&self, kubectl: &Kubectl, pod: &str, port: u16) -> SocketAddr {
        let mut open = self.open.lock().await;
        let key = (pod.to_owned(), port);
        if let Some((address, child)) = open.get_mut(&key)
            && matches!(child.try_wait(), Ok(None))
        {
            return *address;
        }
        let opened = tokio::time::timeout(PATIENCE, forward(kubectl, pod, port)).await;
        let (address, child) = opened.unwrap_or_else(|_| panic!("no port-forward to {pod}:{port} in time"));
        open.insert(key, (address, child));
        address
    }
}

async fn forward(kubectl: &Kubectl, pod: &str, port: u16) -> (SocketAddr, Child) {
    let target = format!("pod/{pod}");
    let mut command =
        kubectl.command(&["port-forward", "--address", "127.0.0.1", &target, &format!(":{port}")]);
    // Its complaints about connections that end with their pod are no news.
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("kubectl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines();
    let first = lines.next_line().await.ok().flatten().unwrap_or_default();
    // "Forwarding from 127.0.0.1:41234 -> 8081"
    let local =
        first.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")?.parse::<u16>().ok());
    let local = local.unwrap_or_else(|| panic!("kubectl port-forward {target} :{port} said {first:?}"));
    // Reads on, so that kubectl never waits for a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    ((Ipv4Addr::LOCALHOST, local).into(), child)
}
