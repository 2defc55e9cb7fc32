//! One chaos case: a fault under load, what it cost, and the record of it for `docs/chaos.md`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::load::{Connections, Report, Running};
use crate::mesh::Mesh;
use crate::report;
use crate::substrate::Target;

/// Requests per second of each of the three loads.
const RATE: u32 = 20;

/// Before the fault and after it.
pub const CALM: Duration = Duration::from_secs(2);

/// Set by `make chaos`: the cases run too that take minutes.
const LONG: &str = "E2E_CHAOS_LONG";

/// Whether the test belongs to the long half of the suite and this run is of the quick half. Then
/// the test ends, and is reported as one that did not run.
#[must_use]
pub fn is_left_to_the_long_half() -> bool {
    let left = !is_long();
    if left {
        report::did_not_run("it belongs to the long half, which `make chaos` runs");
    }
    left
}

/// Whether this run may take minutes a case.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os(LONG).is_some()
}

/// A case under way.
pub struct Case {
    name: &'static str,
    loads: Vec<Running>,
    began: Option<Instant>,
    ended: Option<Instant>,
    whole: Option<Duration>,
}

/// What became of the requests of a case.
pub struct Seen {
    /// One for each kind of client.
    pub reports: Vec<Report>,
}

impl Case {
    /// Starts every kind of client, and waits a moment.
    pub async fn begin(name: &'static str, mesh: &Mesh) -> Self {
        let kinds = [Connections::Fresh, Connections::Kept, Connections::Http2];
        let loads = kinds.map(|connections| mesh.load(RATE, connections).start()).into();
        tokio::time::sleep(CALM).await;
        Self { name, loads, began: None, ended: None, whole: None }
    }

    /// The fault begins now.
    pub fn fault_begins(&mut self) {
        self.began = Some(Instant::now());
    }

    /// The fault is over; the mesh has to recover from now on.
    pub fn fault_ends(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// What the fault had broken works again.
    pub fn recovered(&mut self) {
        self.whole = self.ended.or(self.began).map(|since| since.elapsed());
    }

    /// Waits a moment, ends the load and records what it saw.
    pub async fn end(self, mesh: &Mesh) -> Seen {
        self.record(mesh, "case").await
    }

    /// The same for the twin: the case without its protection.
    pub async fn end_twin(self, mesh: &Mesh) -> Seen {
        self.record(mesh, "twin").await
    }

    async fn record(self, mesh: &Mesh, role: &str) -> Seen {
        tokio::time::sleep(CALM).await;
        let mut reports = Vec::new();
        for load in self.loads {
            let report = load.finish().await;
            println!("{report}");
            reports.push(report);
        }
        let seen = Seen { reports };
        let began = self.began.unwrap_or_else(Instant::now);
        let last = seen.reports.iter().filter_map(Report::last_failure).max();
        let last = last.map(|at| at.saturating_duration_since(began));
        report::write(&[
            "chaos",
            &Target::chosen().to_string(),
            self.name,
            role,
            &seen.sent().to_string(),
            &seen.lost().to_string(),
            &seconds(last),
            &seconds(self.whole),
            &memory(&mesh.peak_memory().await),
        ]);
        seen
    }
}

impl Seen {
    /// Requests of all clients.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.reports.iter().map(|report| report.sent).sum()
    }

    /// Requests without a right response.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.reports.iter().map(|report| report.failed() as u64).sum()
    }

    /// Every request has its response.
    pub fn assert_none_lost(&self) {
        self.reports.iter().for_each(Report::assert_none_failed);
    }

    /// At most one request in so many is lost, and the load was whole.
    pub fn assert_lost_at_most_one_in(&self, many: u64) {
        self.reports.iter().for_each(Report::assert_whole);
        assert!(self.lost() * many <= self.sent(), "{} of {} lost", self.lost(), self.sent());
    }

    /// At least one request in so many is lost: what a twin must see.
    pub fn assert_lost_at_least_one_in(&self, many: u64) {
        let (lost, sent) = (self.lost(), self.sent());
        assert!(lost * many >= sent && lost > 0, "{lost} of {sent} lost: the case proves nothing");
    }
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| format!("{:.1}", duration.as_secs_f64()))
}

/// `ingress 12, pet 4 MiB`, rounded up.
fn memory(peaks: &BTreeMap<String, u64>) -> String {
    let peaks = peaks.iter().map(|(program, kib)| format!("{program} {}", kib.div_ceil(1024)));
    let text = peaks.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}
