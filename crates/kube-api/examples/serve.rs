//! Serves the small API server for shell scripts: `cargo run -p kube-api --example serve -- --kubeconfig FILE`.
//!
//! It prints `ready` when the kubeconfig is written, and ends when its standard input does.

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use kube_api::{Anonymous, Config, Node, Server, Settle, Token};

const USAGE: &str = "\
serve --kubeconfig FILE [--kubernetes-version 1.36.2] [--node NAME[,arch=arm64][,version=v1.30.0][,address=IP][,image=NAME]...]...
      [--namespace NAME]... [--settle [REASON]] [--hold-namespaces]

--settle            Deployments are rolled out as they are written; with a REASON, for example ImagePullBackOff, their
                    Pods wait with it
--hold-namespaces   a deleted namespace stays Terminating
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed, the code has to do.
            let _ = writeln!(io::stderr(), "serve: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (config, file, held) = read_arguments(std::env::args().skip(1))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let server = Server::start(config)?;
        server.store().hold_namespaces(held);
        std::fs::write(&file, server.kubeconfig("admin"))
            .map_err(|error| format!("cannot write {file}: {error}"))?;
        writeln!(io::stdout(), "ready")?;
        // Whoever started it holds the other end.
        tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().by_ref(), &mut io::sink())).await??;
        server.stop().await;
        Ok(())
    })
}

fn read_arguments(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(Config, String, bool), Box<dyn Error>> {
    let mut config = Config {
        plain: None,
        tokens: vec![Token::admin("admin")],
        anonymous: Anonymous::Forbidden,
        ..Config::default()
    };
    let (mut file, mut held) = (None, false);
    let mut pending = None;
    while let Some(argument) = pending.take().or_else(|| arguments.next()) {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--kubeconfig" => file = Some(value()?),
            "--kubernetes-version" => config.version = value()?,
            "--node" => config.nodes.push(node(&value()?)?),
            "--namespace" => config.namespaces.push(value()?),
            "--hold-namespaces" => held = true,
            "--settle" => {
                config.settle = Settle::RolledOut;
                match arguments.next() {
                    Some(next) if next.starts_with("--") => pending = Some(next),
                    // A setting of the whole process, made once.
                    Some(reason) => config.settle = Settle::Stuck(reason.leak()),
                    None => {}
                }
            }
            other => return Err(format!("what is {other}?\n{USAGE}").into()),
        }
    }
    let file = file.ok_or_else(|| format!("--kubeconfig FILE is missing\n{USAGE}"))?;
    Ok((config, file, held))
}

fn node(text: &str) -> Result<Node, String> {
    let mut parts = text.split(',');
    let mut node = Node::named(parts.next().unwrap_or_default());
    for part in parts {
        match part.split_once('=') {
            Some(("arch", value)) => node.architecture = value.to_owned(),
            Some(("version", value)) => node.kubelet_version = value.to_owned(),
            Some(("address", value)) => node.address = value.to_owned(),
            Some(("image", value)) => node.images.push(value.to_owned()),
            _ => return Err(format!("--node {text}: {part} is none of arch=, version=, address=, image=")),
        }
    }
    Ok(node)
}
