//! The command line as a user types it: up, ps, logs, scale, down, and the words for what goes wrong.

use e2e::{Capability, Cli, skipped};

#[test]
fn a_mesh_is_started_shown_and_stopped() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let cli = Cli::new();
    let up = cli.run(&["up"]);
    assert!(up.success, "{up:?}");
    for said in ["the mesh answers", "petstore-1", "includePets=true", "petmesh down"] {
        assert!(up.stdout.contains(said), "{said} is not in {}", up.stdout);
    }
    let again = cli.run(&["up"]);
    assert!(!again.success && again.stderr.contains("already running"), "{again:?}");
    let json: serde_json::Value = serde_json::from_str(&cli.run(&["ps", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["pods"].as_array().unwrap().len(), 5);
    let logs = cli.run(&["logs", "pet-1"]);
    assert!(logs.success && logs.stdout.contains("pet listens on"), "{logs:?}");
    let unknown = cli.run(&["logs", "dog-1"]);
    assert!(!unknown.success && unknown.stderr.contains("there are ingress-1, pet-1"), "{unknown:?}");
    let scaled = cli.run(&["scale", "pet=3"]);
    assert!(scaled.success && scaled.stdout.contains("pet-3"), "{scaled:?}");
    let down = cli.run(&["down"]);
    assert!(down.success && down.stdout.contains("the mesh is down: 10 processes ended"), "{down:?}");
    let nothing = cli.run(&["down"]);
    assert!(nothing.success && nothing.stdout.contains("no mesh is running"), "{nothing:?}");
}
