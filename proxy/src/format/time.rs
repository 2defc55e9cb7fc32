//! The times of `%START_TIME(…)%`: strftime's letters, and Envoy's `%f`, `%3f`, `%E3S` for parts of a second. UTC only.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Utc;

/// A parsed time format; empty for Envoy's default, `2026-11-21T09:35:00.123Z`.
#[derive(Clone, Debug, Default)]
pub(super) struct TimeFormat(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<str>),
    /// A letter of strftime.
    Letter(char),
    /// That many digits of the second's fraction.
    Fraction(usize),
    /// Seconds with that many digits after the point; `None` is as many as are needed.
    Seconds(Option<usize>),
    /// `+00:00`.
    Offset,
}

const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";
const LETTERS: &str = "YCymdejHIMSsbBhaApuwTDFRZzn t%";

impl TimeFormat {
    /// Unknown letters are copied.
    pub(super) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = if text.is_empty() { DEFAULT } else { text };
        while let Some(at) = rest.find('%') {
            let (before, tail) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let (piece, length) = piece(tail);
            pieces.push(piece);
            rest = tail.get(length..).unwrap_or_default();
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Self(pieces)
    }

    pub(super) fn write(&self, wall: SystemTime, out: &mut Vec<u8>) {
        let utc = Utc::of(wall);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Letter(letter) => write_letter(*letter, &utc, wall, out),
                Piece::Fraction(digits) => write_fraction(utc.nanos, *digits, out),
                Piece::Seconds(digits) => write_seconds(&utc, *digits, out),
                Piece::Offset => out.extend_from_slice(b"+00:00"),
            }
        }
    }
}

/// The piece that `text` (which begins with `%`) begins with, and its length.
fn piece(text: &str) -> (Piece, usize) {
    let mut chars = text.chars().skip(1);
    let digits = |c: Option<char>| c.and_then(|c| c.to_digit(10)).map(|digit| digit as usize);
    match (chars.next(), chars.next(), chars.next()) {
        (Some('E'), Some('*'), Some('S')) => (Piece::Seconds(None), 4),
        (Some('E'), Some('*'), Some('z')) => (Piece::Offset, 4),
        (Some('E'), Some('z'), _) => (Piece::Offset, 3),
        (Some('E'), digit, Some('S')) if digits(digit).is_some() => (Piece::Seconds(digits(digit)), 4),
        (Some('E'), digit, Some('f')) if digits(digit).is_some() => {
            (Piece::Fraction(digits(digit).unwrap_or(9)), 4)
        }
        (Some('f'), ..) => (Piece::Fraction(9), 2),
        (digit @ Some('1'..='9'), Some('f'), _) => (Piece::Fraction(digits(digit).unwrap_or(9)), 3),
        (Some(letter), ..) if LETTERS.contains(letter) => (Piece::Letter(letter), 2),
        (Some(other), ..) => (Piece::Text(format!("%{other}").into()), 1 + other.len_utf8()),
        (None, ..) => (Piece::Text("%".into()), 1),
    }
}

fn write_letter(letter: char, utc: &Utc, wall: SystemTime, out: &mut Vec<u8>) {
    let Utc { year, month, day, hour, minute, second, .. } = utc;
    let twelve = (hour + 11) % 12 + 1;
    let weekday = utc.weekday_name();
    // Writing to a vector cannot fail.
    let _ = match letter {
        'Y' => write!(out, "{year}"),
        'C' => write!(out, "{:02}", year / 100),
        'y' => write!(out, "{:02}", year % 100),
        'm' => write!(out, "{month:02}"),
        'd' => write!(out, "{day:02}"),
        'e' => write!(out, "{day:2}"),
        'j' => write!(out, "{:03}", utc.day_of_year),
        'H' => write!(out, "{hour:02}"),
        'I' => write!(out, "{twelve:02}"),
        'M' => write!(out, "{minute:02}"),
        'S' => write!(out, "{second:02}"),
        's' => write!(out, "{}", wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()),
        'b' | 'h' => write!(out, "{}", utc.month_name()),
        'B' => write!(out, "{}", long_month(*month)),
        'a' => write!(out, "{weekday}"),
        'A' => write!(out, "{}", long_weekday(utc.weekday)),
        'p' => write!(out, "{}", if *hour < 12 { "AM" } else { "PM" }),
        'u' => write!(out, "{}", (utc.weekday + 6) % 7 + 1),
        'w' => write!(out, "{}", utc.weekday),
        'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
        'R' => write!(out, "{hour:02}:{minute:02}"),
        'D' => write!(out, "{month:02}/{day:02}/{:02}", year % 100),
        'F' => write!(out, "{year}-{month:02}-{day:02}"),
        'Z' => write!(out, "UTC"),
        'z' => write!(out, "+0000"),
        'n' => writeln!(out),
        't' => write!(out, "\t"),
        _ => write!(out, "%"),
    };
}

fn write_fraction(nanos: u32, digits: usize, out: &mut Vec<u8>) {
    let text = [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    out.extend(text.iter().take(digits).map(|unit| b'0' + u8::try_from(nanos / unit % 10).unwrap_or(0)));
}

fn write_seconds(utc: &Utc, digits: Option<usize>, out: &mut Vec<u8>) {
    let _ = write!(out, "{:02}", utc.second);
    if digits == Some(0) || (digits.is_none() && utc.nanos == 0) {
        return;
    }
    out.push(b'.');
    write_fraction(utc.nanos, digits.unwrap_or(9), out);
    while digits.is_none() && out.last() == Some(&b'0') {
        out.pop();
    }
}

fn long_month(month: u32) -> &'static str {
    const NAMES: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    NAMES.get(month.wrapping_sub(1) as usize).copied().unwrap_or("January")
}

fn long_weekday(weekday: u32) -> &'static str {
    const NAMES: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    NAMES.get(weekday as usize).copied().unwrap_or("Sunday")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(format: &str, millis: u64) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(format).write(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_written_as_envoy_writes_them() {
        let moment = 1_795_255_761_333;
        assert_eq!(show("", moment), "2026-11-21T10:09:21.333Z");
        assert_eq!(show("%Y/%m/%dT%H:%M:%S%z", moment), "2026/11/21T10:09:21+0000");
        assert_eq!(show("%s.%3f", moment), "1795255761.333");
        assert_eq!(
            show("%s%9f %1f %f %E3S %E*S %b %d %a %j %y %I %p %e %T %D %F %Z %%", moment),
            "1795255761333000000 3 333000000 21.333 21.333 Nov 21 Sat 325 26 10 AM 21 10:09:21 11/21/26 2026-11-21 UTC %"
        );
        assert_eq!(show("%E*S%", moment - 333), "21%");
        assert_eq!(show("%q %3q ü", moment), "%q %3q ü");
    }
}
