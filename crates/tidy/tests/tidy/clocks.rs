//! Who may read the wall clock: a timer that did would be wrong whenever that clock is set.

use tidy::{Findings, Tree, code, without_tests};

/// The programs and what they are made of.
const PROGRAMS: [&str; 8] = [
    "proxy/src/",
    "sds/src/",
    "services/",
    "ingress/src/",
    "cli/src/",
    "crates/lifecycle/",
    "crates/telemetry/",
    "crates/local-mesh/",
];

/// Ways to read it.
const READS: [&str; 4] = ["SystemTime::now", "time::wall()", "Timestamp::now", "Utc::now"];

/// Files that may, and for what.
const MAY: [(&str, &str); 10] = [
    ("proxy/src/time.rs", "the one function that reads it"),
    ("proxy/src/admin/accepted.rs", "when a configuration was rejected, for the admin interface"),
    ("proxy/src/admin/access.rs", "the start of a request in the admin interface's access log"),
    ("proxy/src/control/checks/connection.rs", "the start of a health check in its headers"),
    ("proxy/src/control/writer.rs", "when a configuration was loaded, for the admin interface"),
    ("proxy/src/exchange.rs", "the start of a request in logs, headers and spans"),
    ("proxy/src/exchange/retry.rs", "a response's point in time after which to retry"),
    ("proxy/src/format/value.rs", "%EMIT_TIME%"),
    ("proxy/src/tcp.rs", "the start of a connection in logs"),
    ("sds/src/watch.rs", "how long ago Kubernetes changed a pod, for a statistic"),
];

#[test]
fn timers_never_read_the_wall_clock() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let mut used = Vec::new();
    for program in PROGRAMS {
        for file in tree.with_extension(program, "rs").filter(|file| !file.contains("/tests")) {
            let code = without_tests(&code(&tree.text(file)?));
            for (index, line) in code.lines().enumerate() {
                let Some(read) = READS.iter().find(|read| line.contains(**read)) else { continue };
                if MAY.iter().any(|(may, _)| file == *may) {
                    used.push(file.to_owned());
                } else {
                    let place = format!("{file}:{}", index + 1);
                    findings.add(format!(
                        "{place}: `{read}` reads the wall clock, which may jump: measure time with \
                         `Instant`, or name the file in {} with what it is for",
                        file!()
                    ));
                }
            }
        }
    }
    for (may, what) in MAY.iter().filter(|(may, _)| !used.iter().any(|file| file == may)) {
        findings.add(format!("{may} does not read the wall clock ({what}): take it from {}", file!()));
    }
    findings.none_or()
}
