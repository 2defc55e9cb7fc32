//! What became of each request, and what "0 failed" means.
//!
//! Filled by `load`; its assertions are called by the tests.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Requests without an answer that are kept with their time and reason; beyond it they are only counted, as lost.
const MAX_UNANSWERED: usize = 10_000;

/// What became of all requests of one load.
#[derive(Debug)]
pub struct Report {
    /// When the load began.
    pub began: Instant,
    /// How many requests the rate asks for in the time that the load lasted.
    pub planned: u64,
    /// How many were sent.
    pub sent: u64,
    /// Second by second, by the time of sending.
    pub seconds: Vec<Second>,
    /// Those without a right answer, by the time of sending.
    unanswered: Vec<Record>,
}

/// The requests that were sent within one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Second {
    pub answered: usize,
    pub refused: usize,
    pub failed: usize,
}

/// Counts requests as they end. It grows with the seconds that a load lasts, not with its requests.
#[derive(Debug, Default)]
pub struct Tally {
    seconds: Vec<Second>,
    unanswered: Vec<Record>,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, record: Record) {
        let at = usize::try_from(record.at.as_secs()).unwrap_or(usize::MAX);
        if self.seconds.len() <= at {
            self.seconds.resize(at + 1, Second::default());
        }
        let second = &mut self.seconds[at];
        match &record.outcome {
            Outcome::Answered => second.answered += 1,
            Outcome::Refused(_) => second.refused += 1,
            Outcome::Failed(_) => second.failed += 1,
        }
        if record.outcome != Outcome::Answered && self.unanswered.len() < MAX_UNANSWERED {
            self.unanswered.push(record);
        }
    }

    /// The whole, when all have ended.
    #[must_use]
    pub fn report(mut self, began: Instant, planned: u64, sent: u64) -> Report {
        self.unanswered.sort_by_key(|record| record.at);
        Report { began, planned, sent, seconds: self.seconds, unanswered: self.unanswered }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it was sent, since the beginning.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Status 200 with the right body, complete.
    Answered,
    /// It was never accepted: the connection was refused, or a proxy on the way says that of the next part.
    Refused(String),
    /// Anything else.
    Failed(String),
}

/// Whether a proxy's own 503 says that the request reached no application: Envoy's texts for no endpoint and for an
/// endpoint that refuses connections.
#[must_use]
pub fn means_refused(body: &str) -> bool {
    body.contains("no healthy upstream")
        || body.contains("remote connection failure")
        || body.contains("reset reason: connection failure")
}

impl Report {
    /// Requests with a right answer.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.seconds.iter().map(|second| second.answered).sum()
    }

    /// Requests without one, refused or broken.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.seconds.iter().map(|second| second.refused + second.failed).sum()
    }

    /// When the last of those was sent.
    #[must_use]
    pub fn last_failure(&self) -> Option<Instant> {
        self.unanswered.last().map(|record| self.began + record.at)
    }

    /// Those among them that were never accepted.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.seconds.iter().map(|second| second.refused).sum()
    }

    /// The requests without a right answer, in the order of sending.
    #[must_use]
    pub fn unanswered(&self) -> &[Record] {
        &self.unanswered
    }

    /// Requests that were accepted and yet have no right answer, when a part was told to end at `signal`. A refusal is no
    /// loss if the request came after the signal; one that was under way by then had been accepted.
    #[must_use]
    pub fn lost(&self, signal: Instant) -> usize {
        let signal = signal.duration_since(self.began);
        // A refusal that is not kept has no time: it counts as a loss.
        let excused = |record: &Record| matches!(record.outcome, Outcome::Refused(_)) && record.at >= signal;
        self.failed() - self.count(excused)
    }

    /// "0 failed": the load was whole and every request has its answer.
    pub fn assert_none_failed(&self) {
        self.assert_whole();
        assert_eq!(self.failed(), 0, "{self}");
    }

    /// The same for the kill of a process within `instants`: what was under way then is reported apart.
    pub fn assert_none_failed_but_in_flight_at(&self, instants: &RangeInclusive<Instant>) {
        self.assert_whole();
        let from = instants.start().duration_since(self.began);
        let to = instants.end().duration_since(self.began);
        let in_flight = |record: &Record| record.at <= to && from <= record.at + record.took;
        let apart = self.count(in_flight);
        println!("under way at the kill and not answered: {apart}");
        assert_eq!(
            self.failed() - apart,
            0,
            "beside {apart} requests under way at {from:?} to {to:?}: {self}"
        );
    }

    /// For the orderly end of a part that has no second: what was accepted is answered; what was refused is counted apart.
    pub fn assert_nothing_accepted_was_lost(&self, signal: Instant) {
        self.assert_whole();
        println!("refused: {}", self.failed() - self.lost(signal));
        assert_eq!(self.lost(signal), 0, "{self}");
    }

    /// The load kept its rate.
    pub fn assert_whole(&self) {
        println!("{self}");
        assert!(self.sent > 0 && self.sent >= self.planned, "the load fell behind: {self}");
        assert_eq!(self.sent as usize, self.answered() + self.failed(), "{self}");
    }

    fn count(&self, which: impl Fn(&Record) -> bool) -> usize {
        self.unanswered.iter().filter(|record| which(record)).count()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} planned, {} sent, {} answered, {} failed (of these {} refused)",
            self.planned,
            self.sent,
            self.answered(),
            self.failed(),
            self.refused()
        )?;
        let mut kinds: BTreeMap<String, (usize, Duration, Duration)> = BTreeMap::new();
        for record in &self.unanswered {
            let kind = match &record.outcome {
                Outcome::Answered => continue,
                Outcome::Refused(why) => format!("refused: {why}"),
                Outcome::Failed(why) => format!("failed: {why}"),
            };
            let entry = kinds.entry(kind).or_insert((0, record.at, record.at));
            entry.0 += 1;
            entry.2 = record.at;
        }
        let mut text = String::new();
        for (kind, (count, first, last)) in kinds {
            let _ = write!(text, "\n  {count} x {kind} (sent {first:.2?} to {last:.2?} after the beginning)");
        }
        for (at, second) in self.seconds.iter().enumerate() {
            let Second { answered, refused, failed } = second;
            if refused + failed > 0 {
                let _ =
                    write!(text, "\n  second {at}: {answered} answered, {refused} refused, {failed} failed");
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[(u64, u64, Outcome)]) -> Report {
        let mut tally = Tally::default();
        for (at, took, outcome) in outcomes {
            let (at, took) = (Duration::from_millis(*at), Duration::from_millis(*took));
            tally.add(Record { at, took, outcome: outcome.clone() });
        }
        tally.report(Instant::now(), 2, outcomes.len() as u64)
    }

    fn lost() -> Outcome {
        Outcome::Failed("reset".to_owned())
    }

    #[test]
    fn one_failure_fails_the_test() {
        report(&[(0, 5, Outcome::Answered), (10, 5, Outcome::Answered)]).assert_none_failed();
        let bad = report(&[(0, 5, Outcome::Answered), (10, 5, lost())]);
        assert!(std::panic::catch_unwind(|| bad.assert_none_failed()).is_err());
    }

    #[test]
    fn a_load_that_fell_behind_proves_nothing() {
        let thin = report(&[(0, 5, Outcome::Answered)]);
        assert!(std::panic::catch_unwind(|| thin.assert_none_failed()).is_err());
    }

    #[test]
    fn only_what_was_under_way_at_the_kill_is_excused() {
        let report = report(&[(0, 20, lost()), (30, 5, Outcome::Answered)]);
        let at =
            |from, to| report.began + Duration::from_millis(from)..=report.began + Duration::from_millis(to);
        report.assert_none_failed_but_in_flight_at(&at(10, 12));
        assert!(
            std::panic::catch_unwind(|| report.assert_none_failed_but_in_flight_at(&at(25, 27))).is_err()
        );
    }

    #[test]
    fn a_refusal_is_a_loss_only_if_the_request_had_been_accepted() {
        let refused = Outcome::Refused("connection refused".to_owned());
        let report = report(&[(0, 5, Outcome::Answered), (10, 5, refused)]);
        let at = |millis| report.began + Duration::from_millis(millis);
        report.assert_nothing_accepted_was_lost(at(5));
        assert!(std::panic::catch_unwind(|| report.assert_nothing_accepted_was_lost(at(12))).is_err());
    }
}
