//! The report of a run: a test that did not run is listed, with the reason.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use e2e::report::FILE;

/// Runs `e2e/run.sh` with a folder of its own in place of the target folder.
fn run(folder: &Path, command: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh");
    let mut run = Command::new(script);
    run.arg("these tests").args(command).env("CARGO_TARGET_DIR", folder);
    run.output().expect("bash runs it")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_test_that_did_not_run_is_listed_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let name = "command_line::a_mesh_is_started_shown_and_stopped";
    // Neither of these environments has a command line, so the tests of this very program end at once.
    let inner = format!(
        "E2E_TARGET=k3s '{}' --exact {name} && E2E_TARGET=k3s '{0}' --exact \
                         containers::a_frozen_app_holds_no_request_for_ever_and_thaws",
        this.display()
    );
    let output = run(folder.path(), &["bash", "-c", &inner]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("these tests: ran 0, did not run 2\n"), "{said}");
    assert!(
        said.contains(&format!("did not run: {name}: k3s: it needs CommandLine, and the command line")),
        "{said}"
    );
    assert!(said.contains("thaws: k3s: it needs Pause, and the API cannot freeze a container"), "{said}");
}

#[test]
fn tests_are_counted_once_and_a_part_that_was_left_out_is_listed_too() {
    let folder = tempfile::tempdir().unwrap();
    let records = format!(
        "printf 'ran\\ta\\nran\\ta\\nran\\tb\\nskipped\\tc\\twhy\\npart\\tb\\tno second ingress\\n' >>\"${FILE}\""
    );
    let output = run(folder.path(), &["bash", "-c", &records]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        said,
        "these tests: ran 2, did not run 1\n  did not run: c: why\n  ran in part: b: no second ingress\n"
    );
    // The next run starts with an empty file.
    let output = run(folder.path(), &["bash", "-c", &format!("printf 'ran\\td\\n' >>\"${FILE}\"")]);
    assert_eq!(text(&output.stdout), "these tests: ran 1, did not run 0\n");
}

#[test]
fn a_failure_is_passed_on_after_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["bash", "-c", &format!("printf 'ran\\ta\\n' >>\"${FILE}\"; exit 100")]);
    assert_eq!(output.status.code(), Some(100));
    assert!(text(&output.stdout).contains("ran 1, did not run 0"), "{output:?}");
}

#[test]
fn a_run_without_a_report_fails() {
    let folder = tempfile::tempdir().unwrap();
    let silent = run(folder.path(), &["true"]);
    assert_eq!(silent.status.code(), Some(1), "{silent:?}");
    assert!(text(&silent.stderr).contains("no report of these tests"), "{silent:?}");
    let removed = run(folder.path(), &["bash", "-c", &format!("rm \"${FILE}\"")]);
    assert_eq!(removed.status.code(), Some(1), "{removed:?}");

    let file = folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
    let nowhere = run(&file, &["true"]);
    assert_ne!(nowhere.status.code(), Some(0), "{nowhere:?}");
    assert!(text(&nowhere.stderr).contains("no report of these tests"), "{nowhere:?}");
}

#[test]
fn the_table_of_chaos_cases_takes_the_place_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("chaos.md");
    let (before, after) = ("# Chaos\n\n<!-- measured: local -->", "<!-- /measured: local -->\n\nNotes.\n");
    std::fs::write(&document, format!("{before}\nold\n{after}")).unwrap();
    let chaos = |records: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos.sh");
        let records = format!("printf '{records}' >>\"${FILE}\"");
        let mut run = Command::new(script);
        run.args(["bash", "-c", &records])
            .env("CARGO_TARGET_DIR", folder.path())
            .env_remove("E2E_TARGET")
            .env_remove("CHAOS_KEEP");
        run.env("CHAOS_DOCUMENT", &document).output().expect("bash runs it")
    };
    let output = chaos(
        "ran\\ta\\nchaos\\tlocal\\ta fault\\ttwin\\t90\\t30\\t1.0\\t2.0\\tpet 9\\n\
         chaos\\tlocal\\ta fault\\tcase\\t100\\t0\\t-\\t3.0\\tpet 10\\n",
    );
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&document).unwrap();
    let row = "| a fault | 100 | 0 | - | 3.0 | 30 of 90 | pet 10 |\n";
    assert!(text.starts_with(before) && text.ends_with(after) && text.contains(row), "{text}");
    assert!(!text.contains("old"), "{text}");
    // A run without cases leaves the table that is there.
    let nothing = chaos("ran\\ta\\n");
    assert!(!nothing.status.success(), "{nothing:?}");
    assert_eq!(std::fs::read_to_string(&document).unwrap(), text);
}

#[test]
fn every_target_of_the_makefile_that_runs_the_suite_reports() {
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Makefile");
    let makefile = std::fs::read_to_string(makefile).unwrap();
    let runs: Vec<&str> = makefile.lines().filter(|line| line.contains("$(RUN_E2E)")).collect();
    assert!(runs.len() >= 4, "{runs:?}");
    for line in runs {
        assert!(line.contains("e2e/run.sh '"), "this line runs tests without a report: {line}");
    }
}
