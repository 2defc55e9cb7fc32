//! A server and a kubectl that speaks to it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use kube_api::{Anonymous, Config, Server, Token};
use serde_json::Value;

/// Runs a test where it may block, while the server runs in the test's runtime. Without kubectl there is no test.
pub async fn with_cluster(test: impl FnOnce(&Cluster) + Send + 'static) {
    with(settings(), test).await;
}

/// The same with other settings.
pub async fn with(settings: Config, test: impl FnOnce(&Cluster) + Send + 'static) {
    if let Some(cluster) = Cluster::start(settings) {
        tokio::task::spawn_blocking(move || test(&cluster)).await.unwrap();
    }
}

/// An administrator's token, and the namespaces default and demo.
pub fn settings() -> Config {
    Config {
        tokens: vec![Token::admin("secret")],
        anonymous: Anonymous::Forbidden,
        namespaces: vec!["default".to_owned(), "demo".to_owned()],
        ..Config::default()
    }
}

pub struct Cluster {
    pub server: Server,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// None where kubectl cannot be run.
    pub fn start(settings: Config) -> Option<Self> {
        let found = Command::new("kubectl").args(["version", "--client"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("skipped: kubectl is not installed");
            return None;
        }
        let server = Server::start(settings).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), server.kubeconfig("secret")).unwrap();
        Some(Self { server, folder })
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    // Its caches lie beside its configuration, not in anybody's home.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(args)
            .env("KUBECONFIG", self.folder.path().join("config"))
            .env("HOME", self.folder.path());
        command
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Cluster {
    /// What a command that fails says.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "kubectl {args:?} succeeds");
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn refused_manifest(&self, manifest: &Value) -> String {
        let file = written(manifest);
        self.refused(&["apply", "-f", file.path().to_str().unwrap()])
    }

    /// `kubectl diff`, which exits with 1 where there is a difference.
    pub fn diff(&self, manifest: &Value) -> String {
        let file = written(manifest);
        let output = self.run(&["diff", "-f", file.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn applied(&self, manifest: &Value, options: &[&str]) -> String {
        let file = written(manifest);
        let path = file.path().to_str().unwrap().to_owned();
        self.ok(&[&["apply", "-f", &path], options].concat())
    }

    // Starts a `get -w`, and stops it when dropped.
    pub fn watch(&self, args: &[&str]) -> Watch {
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Watch { child, lines }
    }
}

fn written(manifest: &Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(manifest.to_string().as_bytes()).unwrap();
    file
}

pub struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    pub fn line(&mut self) -> String {
        let line = self.lines.next().expect("kubectl ended").unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
