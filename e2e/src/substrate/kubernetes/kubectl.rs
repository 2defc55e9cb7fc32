//! kubectl, the one client that the substrate uses: what a test does can be typed again by hand.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How to call it.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// The kubeconfig of a cluster that the test started itself.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of this test's mesh.
    pub namespace: String,
}

impl Kubectl {
    /// A command in the test's namespace. `KUBECTL` names another program, with its first words (`minikube kubectl --`), `CONTEXT`
    /// another context than the current one; make hands both on, empty where the user has set none.
    pub fn command(&self, args: &[&str]) -> Command {
        let given = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let words = given("KUBECTL").unwrap_or_else(|| "kubectl".to_owned());
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or("kubectl"));
        command.args(words);
        if let Some(path) = &self.kubeconfig {
            command.env("KUBECONFIG", path);
        } else if let Some(context) = given("CONTEXT") {
            command.args(["--context", &context]);
        }
        command.args(["--namespace", &self.namespace]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// What kubectl says when it fails.
    pub async fn run(&self, args: &[&str]) -> Result<String, String> {
        said(args, self.command(args).output().await)
    }

    /// The same with standard input.
    ///
    /// # Errors
    /// What kubectl says when it fails.
    pub async fn run_with(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| not_there(&error))?;
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        // If kubectl ends before it has read all, its own words say why.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        said(args, child.wait_with_output().await)
    }

    /// What a test needs in order to go on.
    pub async fn must(&self, args: &[&str]) -> String {
        self.run(args).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Something of the cluster as JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let text = self.must(&[args, &["--output", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("kubectl {args:?} is not JSON: {error}"))
    }
}

fn said(args: &[&str], output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| not_there(&error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn not_there(error: &std::io::Error) -> String {
    format!(
        "kubectl cannot be run ({error}): install it (https://kubernetes.io/docs/tasks/tools/) or name it in KUBECTL"
    )
}
