//! Builds run on a thread of their own, so control stays responsive. One runs at a time; the newest
//! configuration wins, and under constant change at least every fourth build counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Diagnostic, Read};

use crate::access_log::LogWriter;
use crate::build::files::Stamps;
use crate::build::{self, Files, Flavor, Graph, Node, Packed, Parts};
use crate::stats::Registry;

/// What every build of this process has in common.
#[derive(Clone)]
pub(super) struct Builder {
    /// `--service-node` and `--service-cluster`.
    pub service: (Option<String>, Option<String>),
    pub flavor: Flavor,
    pub registry: Registry,
    pub logs: Arc<LogWriter>,
}

/// What a build is made of.
#[derive(Clone)]
pub(super) enum Input {
    /// A text with the name of its file.
    Text(String, String),
    /// The configuration in use, with other runtime values.
    Message(Packed<Bootstrap>),
}

/// Changes of runtime values, and where to say what came of them.
pub(super) struct Values {
    pub changes: Vec<(String, String)>,
    pub done: oneshot::Sender<Result<(), String>>,
}

impl Values {
    /// Lays the changes over other values.
    pub(super) fn lay_over(&self, values: &mut BTreeMap<String, String>) {
        for (key, value) in &self.changes {
            if value.is_empty() {
                values.remove(key);
            } else {
                values.insert(key.clone(), value.clone());
            }
        }
    }
}

/// What a build came to.
pub(super) struct Built {
    pub input: Input,
    /// The graph in use that it shares parts with.
    pub previous: Option<Arc<Graph>>,
    pub result: Outcome,
    pub files: Stamps,
}

/// A configuration with its graph and the warnings, or every finding.
pub(super) type Outcome = Result<(Packed<Bootstrap>, Graph, Vec<Diagnostic>), Vec<Diagnostic>>;

/// Which builds are dropped because a newer configuration waits.
#[derive(Debug, Default)]
pub(super) struct Dropping {
    /// Builds since the last one that was accepted.
    dropped: u32,
}

/// A file that changes during every build would never come into use without this limit.
const MOST_DROPPED: u32 = 3;

impl Dropping {
    /// Whether to drop a build that has ended; `newer` is whether a newer configuration waits.
    pub(super) fn drops(&mut self, newer: bool) -> bool {
        let drops = newer && self.dropped < MOST_DROPPED;
        self.dropped += u32::from(drops);
        drops
    }

    /// A build was accepted.
    pub(super) fn accepted(&mut self) {
        self.dropped = 0;
    }
}

impl Builder {
    /// Begins a build beside control.
    pub(super) fn start(
        &self,
        input: Input,
        runtime: Vec<(String, String)>,
        previous: Option<Arc<Graph>>,
    ) -> JoinHandle<Built> {
        let builder = self.clone();
        tokio::task::spawn_blocking(move || {
            let files = Files::default();
            let result = builder.build(&input, &files, &runtime, previous.as_deref());
            Built { input, previous, result, files: files.into_stamps() }
        })
    }

    fn build(
        &self,
        input: &Input,
        files: &Files,
        runtime: &[(String, String)],
        previous: Option<&Graph>,
    ) -> Outcome {
        let read = match input {
            Input::Text(name, text) => build::check::read(name, text, self.flavor, build::check::in_pod())?,
            Input::Message(message) => Read {
                message: message.unpack(),
                warnings: Vec::new(),
                positions: xds::Positions::none("runtime"),
            },
        };
        let (graph, warnings) = self.graph(&read, files, runtime, previous)?;
        Ok((Packed::new(&read.message), graph, warnings))
    }

    /// The graph of a file that was read, for the node that the flags or the file name.
    pub(super) fn graph(
        &self,
        read: &Read<Bootstrap>,
        files: &Files,
        runtime: &[(String, String)],
        previous: Option<&Graph>,
    ) -> Result<(Graph, Vec<Diagnostic>), Vec<Diagnostic>> {
        let node = Node::new(&read.message, self.service.0.as_deref(), self.service.1.as_deref());
        let parts = Parts {
            node,
            flavor: self.flavor,
            registry: &self.registry,
            logs: Some(&self.logs),
            runtime,
            files: Some(files),
        };
        build::graph(read, parts, previous)
    }
}
