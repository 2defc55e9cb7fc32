//! A remedy that a program or script prints destroys nothing and weakens nobody's cluster.

use tidy::{Findings, Tree};

/// What a user might run without thinking, and what it takes from them.
const HARMFUL: [(&str, &str); 9] = [
    ("minikube delete", "it destroys the cluster: name a cluster beside it (minikube start -p NAME)"),
    ("kind delete", "it destroys the cluster: name a cluster beside it"),
    ("cluster delete", "it destroys the cluster: name a cluster beside it"),
    ("kubectl taint", "it lets the control plane run anybody's pods: name a node to add"),
    ("kubectl cordon", "it keeps everybody's pods away: use a node selector of our own"),
    ("kubectl drain", "it moves everybody's pods"),
    ("remove its finalizers", "what they wait for is left behind: name who has to finish"),
    ("delete that Service", "it is somebody else's: choose another port"),
    ("--grace-period=0", "the pod may still run"),
];

#[test]
fn no_remedy_harms_the_cluster() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    let spoken = |file: &&String| {
        let programs = ["deploy/lib/", "deploy/mesh.sh", "deploy/images/", "cli/src/", ".ci/"];
        programs.iter().any(|folder| file.starts_with(folder))
            || file.ends_with("README.md")
            || *file == "Makefile"
    };
    for file in tree.files.iter().filter(spoken) {
        for (index, line) in tree.text(file)?.lines().enumerate() {
            for (words, why) in HARMFUL.iter().filter(|(words, _)| line.contains(words)) {
                findings.add(format!("{file}:{}: `{words}`: {why}", index + 1));
            }
        }
    }
    findings.none_or()
}
