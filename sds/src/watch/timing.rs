//! Every time and size limit of the watch, with its default.
//!
//! Given by `app` (defaults) and by tests (short ones); read by `watch` and `api`; calls nobody.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// TCP connect, and again TLS handshake plus response head. An API server that is starting accepts connections and
    /// then says nothing.
    pub connect: Duration,
    pub answer: Duration,
    /// One page of a list, from request to last byte.
    pub page: Duration,
    /// What a watch asks for as `timeoutSeconds`. A stall is noticed this much later at the latest, plus `grace`.
    pub watch: Duration,
    /// How much longer than `watch` a watch may last.
    pub grace: Duration,
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
    /// A list beside the watch, compared with what we know; varied by a fifth both ways so that replicas do not align.
    pub audit_every: Duration,
    /// How long events under way may take before a difference is drift.
    pub audit_settle: Duration,
    /// Slices to a page of a list. One full slice is about 30 kB of JSON.
    pub page_size: u32,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(5),
            answer: seconds(10),
            page: seconds(30),
            watch: seconds(60),
            grace: seconds(10),
            backoff_first: Duration::from_millis(500),
            backoff_cap: seconds(10),
            audit_every: seconds(300),
            audit_settle: seconds(10),
            page_size: 100,
        }
    }
}
