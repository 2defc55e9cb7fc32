//! Clocks: the only place where the proxy reads one. And a limit for what may block for ever.
//!
//! Policies take `now` as an argument and never come here.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time.
#[allow(clippy::disallowed_methods)] // this is the place
pub fn now() -> Instant {
    Instant::now()
}

/// The wall time, for logs and `date`.
#[allow(clippy::disallowed_methods)] // this is the place
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Whole milliseconds, the unit of time histograms and of logs.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long a file may take to open or to be read: a file system that is away takes for ever.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that may hang at such files at one time.
const MAX_HANGING: usize = 16;

/// Opens or reads a file on a thread of its own, and gives it up when that takes too long.
pub(crate) fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    within(FILE_TIMEOUT, work)
}

fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static HANGING: AtomicUsize = AtomicUsize::new(0);
    let late = || {
        let text = "it does not respond: a file system that is away, or a pipe that nothing reads";
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    if HANGING.fetch_add(1, Relaxed) >= MAX_HANGING {
        HANGING.fetch_sub(1, Relaxed);
        return Err(late());
    }
    let (sender, result) = sync_channel(1);
    let spawned = std::thread::Builder::new().name("file".to_owned()).spawn(move || {
        let done = work();
        HANGING.fetch_sub(1, Relaxed);
        // The receiver may have given up.
        let _ = sender.send(done);
    });
    if let Err(error) = spawned {
        HANGING.fetch_sub(1, Relaxed);
        return Err(error);
    }
    result.recv_timeout(limit).unwrap_or_else(|_late| Err(late()))
}

/// Waits between attempts: each a random part of an interval that doubles up to the longest (full
/// jitter, as in Envoy), so that many that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The same after so many failures.
    pub(crate) fn after(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// The next wait; `random` is a share in 0..1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let interval = self.first.saturating_mul(1 << self.failures.min(30)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        interval.mul_f64(random.clamp(0.0, 1.0))
    }

    /// An attempt went well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A calendar time in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Utc {
    pub year: i64,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub nanos: u32,
    /// 0 is Sunday.
    pub weekday: u32,
    /// 1 is the first of January.
    pub day_of_year: u32,
}

pub(crate) const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
pub(crate) const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

impl Utc {
    /// From a wall time at or after 1970.
    pub(crate) fn of(wall: SystemTime) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut utc = Self::of_second(since.as_secs());
        utc.nanos = since.subsec_nanos();
        utc
    }

    /// The civil date of a count of days, by the usual era arithmetic on a year that begins in March.
    fn of_second(second: u64) -> Self {
        let days = i64::try_from(second / 86_400).unwrap_or(0);
        let rest = u32::try_from(second % 86_400).unwrap_or(0);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before_month = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let month_at = usize::try_from(month - 1).unwrap_or(0);
        let day_of_year =
            before_month.get(month_at).copied().unwrap_or(0) + day + i64::from(leap && month > 2);
        let small = |value: i64| u32::try_from(value).unwrap_or(0);
        Self {
            year,
            month: small(month),
            day: small(day),
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
            nanos: 0,
            weekday: small((days + 4).rem_euclid(7)),
            day_of_year: small(day_of_year),
        }
    }

    pub(crate) fn month_name(&self) -> &'static str {
        MONTHS.get(self.month.wrapping_sub(1) as usize).copied().unwrap_or("Jan")
    }

    pub(crate) fn weekday_name(&self) -> &'static str {
        WEEKDAYS.get(self.weekday as usize).copied().unwrap_or("Sun")
    }

    /// `2026-11-21T09:35:00.123Z`, as Envoy prints `%START_TIME%`.
    pub(crate) fn rfc3339_millis(&self) -> String {
        let Self { year, month, day, hour, minute, second, nanos, .. } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", nanos / 1_000_000)
    }
}

/// A `date` (RFC 9110, 5.6.7), such as `Sat, 21 Nov 2026 09:35:00 GMT`.
pub(crate) fn http_date(second: u64) -> String {
    let utc = Utc::of_second(second);
    let Utc { year, day, hour, minute, second, .. } = utc;
    format!(
        "{}, {day:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT",
        utc.weekday_name(),
        utc.month_name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_given_up_and_its_threads_are_bounded() {
        let hang = |_| {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let given_up = within(Duration::from_millis(1), move || {
                let _ = held.recv();
                Ok(())
            });
            assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
            release
        };
        let held: Vec<_> = (0..MAX_HANGING).map(hang).collect();
        // Nothing more is begun, however quick it would be.
        assert_eq!(in_time(|| Ok(1)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(held);
        while in_time(|| Ok(1)).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn waits_are_random_parts_of_an_interval_that_doubles_up_to_the_longest() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(25), millis(250));
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits, [25, 50, 100, 200, 250, 250].map(millis));
        backoff.reset();
        assert_eq!((backoff.next(0.5), backoff.next(0.0)), (millis(25) / 2, Duration::ZERO));
        for failures in [31, 1000, u32::MAX] {
            for first in [Duration::from_nanos(1), Duration::MAX] {
                let mut backoff = Backoff::new(first, millis(250)).after(failures);
                assert_eq!((backoff.next(1.0), backoff.next(7.0)), (millis(250), millis(250)));
                assert_eq!(backoff.next(-1.0), Duration::ZERO);
            }
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(Utc::of_second(1_798_761_599).day_of_year, 365);
        let moment = UNIX_EPOCH + Duration::from_millis(1_763_717_700_042);
        assert_eq!(Utc::of(moment).rfc3339_millis(), "2025-11-21T09:35:00.042Z");
    }
}
