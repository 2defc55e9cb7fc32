//! What a substrate cannot do, and why. A test that needs it says so in one line and ends.
//!
//! Asked by the tests, before they start a mesh; README.md has the same as a table.

use crate::report;
use crate::substrate::Target;

/// What not every substrate can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Run `petmesh` as a user types it.
    CommandLine,
    /// Have more than one pod of the ingress behind its one address, and so restart it without a gap.
    SeveralIngresses,
    /// Take a pod away at once, without the time in which callers hear of it.
    LeaveAtOnce,
    /// Send a signal to one container of a pod.
    SignalContainer,
    /// Start a container that ended in the same pod again, as the kubelet does.
    RestartContainer,
    /// Freeze a container.
    Pause,
    /// Part a pod from the network and join it again.
    CutLink,
    /// Take the Kubernetes API away, let it say what is wrong, and give it back.
    CutKubernetes,
    /// Let DNS give no response.
    CutDns,
    /// Start the new pod of a rollout before an old one leaves.
    Surge,
    /// Change the Envoy file of one pod alone, and let it call the test.
    EditPod,
    /// Move the wall clock of all programs.
    MoveClock,
    /// Lose some of a pod's packets.
    LosePackets,
    /// Look at and limit the processes of containers.
    Processes,
    /// Roll out another image.
    ChangeImage,
    /// Try to write to a container's root.
    ReadOnlyRoot,
    /// Have containers with a limit of memory.
    MemoryLimit,
}

impl Capability {
    /// Why this substrate cannot; none if it can.
    #[must_use]
    pub fn missing_on(self, target: Target) -> Option<&'static str> {
        use Capability as C;
        use Target as T;
        match (target, self) {
            (T::Containers | T::Kubernetes | T::K3s, C::CommandLine) => {
                Some("the command line runs the mesh as processes on this machine, and nothing else")
            }
            (T::Local, C::SeveralIngresses) => Some("the ingress is one process at one address"),
            (T::Local, C::RestartContainer) => {
                Some("its supervisor reports a process that ended and leaves it")
            }
            (T::Local, C::CutLink) => Some("all pods share the loopback interface"),
            (T::Local, C::ChangeImage) => Some("there are no images, only the programs that cargo built"),
            (T::Local, C::MemoryLimit) => Some("processes may use all memory of this machine"),
            (T::Local, C::Surge) => Some("its supervisor ends a pod before it starts the next one"),
            (T::Local, C::ReadOnlyRoot) => Some("processes see this machine's file system"),
            (T::Kubernetes | T::K3s, C::LeaveAtOnce) => {
                Some("a forced deletion leaves the running containers to the kubelet's own time")
            }
            (T::Kubernetes | T::K3s, C::SignalContainer) => {
                Some("the API has no signals, and images FROM scratch have no kill to execute")
            }
            (T::Kubernetes | T::K3s, C::Pause) => Some("the API cannot freeze a container"),
            (T::Kubernetes | T::K3s, C::CutLink) => Some(
                "the API cannot take a pod's network away; a NetworkPolicy leaves open connections alone",
            ),
            (T::Kubernetes | T::K3s, C::ReadOnlyRoot) => Some(
                "the API cannot write to a container, and images FROM scratch have no program that could",
            ),
            (T::Kubernetes | T::K3s, C::CutKubernetes) => {
                Some("the cluster's API server is not the test's to stop")
            }
            (T::Kubernetes | T::K3s, C::EditPod) => {
                Some("the pods of a Deployment share one file, and need not reach this machine")
            }
            (T::Kubernetes | T::K3s, C::Processes) => Some("the processes are those of its nodes"),
            (T::Containers | T::Kubernetes | T::K3s, C::MoveClock) => {
                Some("a wall clock is the machine's, and static programs load no library that could move it")
            }
            (T::Local, C::LosePackets) => Some("all pods share the loopback interface"),
            (T::Kubernetes | T::K3s, C::LosePackets) => Some("the API cannot lose packets"),
            (T::Containers, C::CutDns) => Some("Docker's DNS is not the test's to stop"),
            (T::Kubernetes | T::K3s, C::CutDns) => Some("the cluster's DNS is not the test's to stop"),
            _ => None,
        }
    }

    /// Why the substrate of this run cannot; none if it can.
    fn missing(self) -> Option<String> {
        let target = Target::chosen();
        let reason = self.missing_on(target)?;
        Some(format!("{target}: it needs {self:?}, and {reason}"))
    }
}

/// Whether the substrate of this run lacks one of these. Then the test ends, and is reported as one
/// that did not run.
#[must_use]
pub fn skipped(needed: &[Capability]) -> bool {
    let reason = needed.iter().find_map(|capability| capability.missing());
    if let Some(reason) = &reason {
        println!("skipped on {reason}");
        report::did_not_run(reason);
    }
    reason.is_some()
}

/// Whether the substrate of this run has this. Without it the test leaves out a part of what it
/// does, and is reported as one that ran in part.
#[must_use]
pub fn has(capability: Capability) -> bool {
    let reason = capability.missing();
    if let Some(reason) = &reason {
        println!("in part on {reason}");
        report::ran_in_part(reason);
    }
    reason.is_none()
}
