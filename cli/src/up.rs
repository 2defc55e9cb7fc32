//! `petmesh up`: starts a supervisor, tells what it tells, and stops it again if it cannot.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use local_mesh::dir::{self, Dir};
use local_mesh::plan::Addresses;
use local_mesh::{Options, Progress};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Up;
use crate::table;

/// How long the mesh may take to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What a proxy waits between two questions to discovery; in a cluster it is longer.
const REFRESH_DELAY: Duration = Duration::from_secs(1);

/// The one line that is no progress: why the mesh did not start.
const FAILED: &str = "failed: ";

/// Starts the mesh as asked.
pub fn up(dir: &Dir, args: &Up) -> Result<()> {
    let options = options(dir, args)?;
    if dir.is_taken() {
        bail!(local_mesh::Error::AlreadyRunning { pid: dir.last_supervisor().unwrap_or_default() });
    }
    if args.foreground {
        runtime()?.block_on(foreground(dir, options))
    } else {
        runtime()?.block_on(detached(dir, &options))
    }
}

/// `petmesh supervise`: options come as JSON on standard input, progress goes as JSON lines to standard output.
pub fn supervise() -> Result<()> {
    // A session of its own: the terminal's end and its ctrl-C are not the mesh's.
    rustix::process::setsid().context("cannot leave the terminal's session")?;
    let mut json = String::new();
    std::io::stdin().read_to_string(&mut json).context("cannot read the options")?;
    let options = serde_json::from_str(&json).context("cannot understand the options")?;
    start_log(Box::new(std::io::stderr()), "info");
    runtime()?.block_on(async {
        // The reader leaves when the mesh is up; nobody minds what is said after that.
        let say = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
        let stop = stop_signal()?;
        let tell = |progress| match serde_json::to_string(&progress) {
            Ok(line) => say(&line),
            Err(error) => tracing::error!(%error, "progress cannot be told"),
        };
        if let Err(error) = local_mesh::supervise(options, tell, stop).await {
            tracing::error!(%error, "the mesh did not start");
            let text = serde_json::to_string(&error.to_string()).unwrap_or_default();
            say(&format!("{FAILED}{text}"));
        }
        Ok(())
    })
}

async fn foreground(dir: &Dir, options: Options) -> Result<()> {
    dir.create()?;
    start_log(Box::new(create_log(dir)?), "info");
    let stop = stop_signal()?;
    let tell = |progress| {
        let up = matches!(progress, Progress::Up { .. });
        print(&progress);
        if up {
            println!("\nctrl-C stops the mesh.");
        }
    };
    let announce = async {
        stop.await;
        println!("\nstopping the mesh");
    };
    let ended = local_mesh::supervise(options, tell, announce).await?;
    println!("the mesh is down: {ended}");
    Ok(())
}

async fn detached(dir: &Dir, options: &Options) -> Result<()> {
    dir.create()?;
    let mut child = tokio::process::Command::new(&options.shim)
        .arg("supervise")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(create_log(dir)?)
        .spawn()
        .context("cannot start the supervisor")?;
    let json = serde_json::to_vec(options)?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the supervisor has no pipes");
    };
    input.write_all(&json).await.context("cannot tell the supervisor what to do")?;
    drop(input);
    let mut lines = BufReader::new(output).lines();
    let mut stop = std::pin::pin!(stop_signal()?);
    let mut stopping = false;
    loop {
        tokio::select! {
            () = &mut stop, if !stopping => {
                stopping = true;
                println!("stopping the mesh");
                terminate(child.id());
            }
            line = lines.next_line() => match line.context("cannot hear the supervisor")? {
                None if stopping => bail!("interrupted; the mesh has been stopped"),
                None => bail!("the supervisor ended; {}", last_words(&dir.supervisor_log())),
                Some(line) => {
                    if let Some(text) = line.strip_prefix(FAILED) {
                        return Err(anyhow!(serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned())));
                    }
                    let progress = serde_json::from_str(&line).with_context(|| format!("the supervisor said {line}"))?;
                    print(&progress);
                    if matches!(progress, Progress::Up { .. }) {
                        println!("\n`{}` stops the mesh.", down_command(dir));
                        return Ok(());
                    }
                }
            },
        }
    }
}

fn print(progress: &Progress) {
    match progress {
        Progress::Note(text) => println!("{text}"),
        Progress::Ready { pod, after } => println!("  {pod:<12} ready after {:>5} ms", after.as_millis()),
        Progress::Up { status, after } => {
            println!("the mesh answers, {} ms after the start\n", after.as_millis());
            print!("{}", table::pods(status));
            print!("{}", table::what_to_try(status));
        }
    }
}

fn options(dir: &Dir, args: &Up) -> Result<Options> {
    let shim = std::env::current_exe().context("cannot find this program's own file")?;
    let beside = shim.parent().unwrap_or(Path::new(".")).to_owned();
    let mut replicas = std::collections::BTreeMap::new();
    for (service, number) in &args.replicas {
        replicas.insert(service.clone(), *number);
    }
    Ok(Options {
        dir: dir.path().to_owned(),
        bin_dir: args.bin_dir.clone().unwrap_or(beside),
        config_dir: args.config_dir.clone(),
        shim,
        replicas,
        addresses: Addresses { ingress: args.ingress_address, pods: args.pod_addresses },
        refresh_delay: REFRESH_DELAY,
        start_timeout: START_TIMEOUT,
    })
}

/// One thread: the children's lives are tied to the one that starts them.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Completes with the first SIGINT or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn terminate(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now, which is what is wanted.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// What to type to stop this mesh.
fn down_command(dir: &Dir) -> String {
    if dir.path() == Path::new(dir::DEFAULT) {
        "petmesh down".to_owned()
    } else {
        format!("petmesh down --dir {}", dir.path().display())
    }
}

fn create_log(dir: &Dir) -> Result<File> {
    let path = dir.supervisor_log();
    // Not emptied: another mesh may run there, or have been killed.
    File::options()
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("cannot create {}", path.display()))
}

fn last_words(log: &Path) -> String {
    format!("the last lines of {}:\n{}", log.display(), dir::tail(log, 12))
}

fn start_log(writer: Box<dyn Write + Send>, level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(writer))
        .init();
}
