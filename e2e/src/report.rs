//! What a run of the suite says about itself: which tests ran, which did not and why, and what the
//! chaos cases measured.
//!
//! `e2e/run.sh` names a file in `E2E_REPORT`, and prints what is in it when the run has ended. Each
//! line is one record of fields that tabs separate.

use std::fs::File;
use std::io::Write;

/// Names the file. Without it nothing is written.
pub const FILE: &str = "E2E_REPORT";

/// The test has a mesh.
pub fn ran() {
    write(&["ran", &test()]);
}

/// The test ends at once.
pub fn did_not_run(reason: &str) {
    write(&["skipped", &test(), reason]);
}

/// The test leaves out a part of what it does elsewhere.
pub fn ran_in_part(reason: &str) {
    write(&["part", &test(), reason]);
}

/// Appends one record. Tests run in several processes: a record is one write to the end of the file.
pub fn write(fields: &[&str]) {
    let Some(path) = std::env::var_os(FILE) else { return };
    let mut line = record(fields);
    line.push('\n');
    let written =
        File::options().append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| {
        panic!("{}: {error}: the test cannot be reported ({FILE} names the file)", path.display())
    });
}

/// The fields in one line; what separates fields and lines becomes a space.
fn record(fields: &[&str]) -> String {
    let clean: Vec<String> = fields.iter().map(|field| field.replace(['\t', '\n', '\r'], " ")).collect();
    clean.join("\t")
}

/// The test harness names each test's thread after the test.
fn test() -> String {
    std::thread::current().name().unwrap_or("a test on a thread without a name").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        assert_eq!(
            record(&["skipped", "a::b", "two\nlines\tand a tab"]),
            "skipped\ta::b\ttwo lines and a tab"
        );
    }

    #[test]
    fn the_name_is_that_of_the_test() {
        assert_eq!(test(), "report::tests::the_name_is_that_of_the_test");
    }
}
