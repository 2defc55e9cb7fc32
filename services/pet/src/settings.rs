//! Flags and environment variables; a flag wins over its variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;

/// Answers with the pets of a store: GET /pets?petStoreId=ID.
///
/// Logs go to standard error; LOG_FORMAT=json writes them as JSON. Spans go to Zipkin when
/// OTEL_EXPORTER_ZIPKIN_ENDPOINT says where (http://zipkin:9411/api/v2/spans).
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Settings {
    /// Where to listen. Keep it on loopback: the sidecar serves the outside.
    #[arg(long, env = "LISTEN_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen_addr: SocketAddr,

    /// How long each answer of /pets is held back, such as 250ms, 2s or 1m: makes a slow service for demonstrations.
    #[arg(long, env = "PET_DELAY", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub pet_delay: Duration,

    /// error, warn, info, debug or trace, or directives like info,pet=debug [default: RUST_LOG, else info].
    #[arg(long, value_name = "LEVEL", value_parser = telemetry::level)]
    pub log_level: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = number.parse::<f64>().ok().filter(|_| digits);
    let duration = number.zip(seconds).and_then(|(n, unit)| Duration::try_from_secs_f64(n * unit).ok());
    duration.ok_or_else(|| "expected a number and a unit, such as 250ms, 2s or 1m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, millis) in [("2s", 2000), ("250ms", 250), ("0s", 0), ("1.5s", 1500), ("1m", 60_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "2", "s", "-2s", "2h30", "two s", "1e999s", "1.2.3s", "2 s", "inf", "nans"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
