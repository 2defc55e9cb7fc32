//! Wiring: arguments and bootstrap -> snapshot -> workers, control, admin; and the ordered shutdown.
//!
//! The control plane runs on the main thread; workers, the admin interface and the log writer have threads of their own. Nothing is
//! bound before the configuration is known to be good and every address to be free.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use lifecycle::{Lifecycle, Reload, Shutdown, exit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xds::{Code, Diagnostic};

use crate::access_log::{AccessLog, LogWriter};
use crate::admin::{self, AdminContext, Command, CommandLine, Order};
use crate::args::{Args, Mode, Source};
use crate::build::check::ReadApart;
use crate::build::{self, Flavor};
use crate::control::{Control, Event, Handles, Origin, Start};
use crate::local::Local;
use crate::state::{Direction, Drain, ServerState};
use crate::stats::Registry;
use crate::worker::{self, Bound};
use crate::{listener, time};

pub(crate) mod drain;
mod reports;

/// Runs the proxy from the process's arguments to its exit code.
pub fn main(flavor: Flavor) -> ExitCode {
    let name = match flavor {
        Flavor::Sidecar => "proxy",
        Flavor::Edge => "ingress",
    };
    let args = Args::from_process(name);
    match run(&args, flavor) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            reports::failure(&error);
            ExitCode::from(exit::FAILED)
        }
    }
}

fn run(args: &Args, flavor: Flavor) -> anyhow::Result<u8> {
    let options = telemetry::LogOptions { level: args.log_level.clone(), path: args.log_path.clone() };
    let log = telemetry::init(options).context("cannot set up the log")?;
    reports::ignored_flags(args);
    let (origin, name, text) = match read(args) {
        Ok(read) => read,
        Err(diagnostic) => return Ok(reports::refused(args, &[*diagnostic], "")),
    };
    let registry = Registry::new(args.workers());
    let apart = match ReadApart::new(&name, &text, flavor, build::check::in_pod()) {
        Ok(apart) => apart,
        Err(diagnostics) => return Ok(reports::refused(args, &diagnostics, &text)),
    };
    if args.mode == Mode::Validate {
        let findings = build::check::check(&apart.read, flavor, build::check::in_pod());
        // The process ends here: to take a large tree to pieces would only cost time.
        std::mem::forget(apart);
        return Ok(reports::validated(args, &name, &findings, &text));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let state = Arc::new(ServerState::new(time::now()));
    let logs = Arc::new(LogWriter::start(&registry).context("cannot start the log writer")?);
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let start = Start {
        origin,
        text: text.clone(),
        read: Arc::clone(&apart.read),
        flavor,
        service_node: given(&args.service_node),
        service_cluster: given(&args.service_cluster),
        registry: registry.clone(),
        logs: Arc::clone(&logs),
        state: Arc::clone(&state),
        drain_time: args.drain_time(),
        probe: listener::probe,
    };
    // The control plane's channels belong to the runtime they are used on.
    let built = runtime.block_on(async { Control::new(start) });
    let (control, handles, warnings) = match built {
        Ok(built) => built,
        Err(diagnostics) => return Ok(reports::refused(args, &diagnostics, &text)),
    };
    reports::warnings(args, &warnings, &text);
    drop((warnings, text));
    apart.free();
    let admin_log = control.admin_log();
    let server = Server { args, registry, state, logs, log, admin_log, handles };
    let code = runtime.block_on(server.serve(control));
    // A build, or the reading of a file, may take for ever: the process ends without it.
    runtime.shutdown_background();
    code
}

/// The configuration's text and where it came from.
fn read(args: &Args) -> Result<(Origin, String, String), Box<Diagnostic>> {
    let source = args.source(|name| std::env::var(name).ok(), |path| Path::new(path).exists());
    match source.map_err(|text| Box::new(Diagnostic::error("", Code::Unreadable, text)))? {
        Source::Text(text) => Ok((Origin::Text, "--config-yaml".to_owned(), text)),
        Source::File(path) => {
            let name = path.display().to_string();
            match crate::control::read_file(&path) {
                Ok(text) => Ok((Origin::File(path), name, text)),
                Err(error) => {
                    let text = format!("cannot read the configuration {name}: {error}");
                    Err(Box::new(Diagnostic::error(&name, Code::Unreadable, text)))
                }
            }
        }
    }
}

/// Everything that runs, once the configuration is good.
struct Server<'a> {
    args: &'a Args,
    registry: Registry,
    state: Arc<ServerState>,
    logs: Arc<LogWriter>,
    log: telemetry::LogHandle,
    admin_log: Vec<Arc<AccessLog>>,
    handles: Handles,
}

impl Server<'_> {
    async fn serve(self, control: Control) -> anyhow::Result<u8> {
        let lifecycle = Lifecycle::from_signals().context("cannot listen for signals")?;
        let reload = Reload::from_signals().context("cannot listen for SIGHUP")?;
        for address in control.addresses() {
            listener::probe(address)
                .with_context(|| format!("cannot listen on {address}: {}", reports::remedy(address)))?;
        }
        let end = CancellationToken::new();
        let (orders, commands) = mpsc::channel(16);
        let admin = match control.admin() {
            Some(address) => Some(self.start_admin(address, orders, end.clone())?),
            None => None,
        };
        let bound = Bound::new(self.args.workers());
        let workers = self.start_workers(&bound, &end)?;
        let control = control.run(bound.subscribe());
        let shutdown = lifecycle.shutdown();
        let until_end = self.wait(&shutdown, reload, commands);
        tokio::pin!(control);
        let code = tokio::select! {
            () = &mut control => exit::FAILED,
            code = until_end => code,
            () = end.cancelled() => {
                tracing::error!("a worker ended by itself; ending the process");
                exit::FAILED
            }
        };
        end.cancel();
        for thread in workers.into_iter().chain(admin) {
            if thread.join().is_err() {
                tracing::error!("a thread ended by a panic; please report it");
            }
        }
        self.logs.flush();
        Ok(code)
    }

    fn start_workers(&self, bound: &Bound, end: &CancellationToken) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let setups = worker::setups(self.args.workers(), &self.handles.snapshots, end, bound, |at| {
            let (state, reports) = (Arc::clone(&self.state), self.handles.reports.clone());
            Box::new(move || Local::new(at, state, reports))
        });
        let spawned = setups.into_iter().enumerate().map(|(at, setup)| worker::spawn(at, setup));
        spawned.collect::<std::io::Result<_>>().context("cannot start the workers")
    }

    fn start_admin(
        &self,
        address: SocketAddr,
        commands: mpsc::Sender<Order>,
        end: CancellationToken,
    ) -> anyhow::Result<JoinHandle<()>> {
        let socket = TcpListener::bind(address).with_context(|| {
            format!("cannot open the admin interface on {address}: {}", reports::remedy(address))
        })?;
        socket.set_nonblocking(true)?;
        let context = AdminContext {
            state: Arc::clone(&self.state),
            registry: self.registry.clone(),
            snapshot: self.handles.snapshots.clone(),
            accepted: self.handles.accepted.clone(),
            commands,
            log: Some(self.log.clone()),
            access_log: self.admin_log.clone(),
            options: self.command_line(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = async move {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => admin::serve(socket, context, end.cancelled_owned()).await,
                Err(error) => tracing::error!(%error, "cannot serve the admin interface"),
            }
        };
        let thread =
            std::thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(serve));
        thread.context("cannot start the admin interface")
    }

    fn command_line(&self) -> CommandLine {
        let args = self.args;
        CommandLine {
            concurrency: args.workers(),
            config_path: args.config_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            config_yaml: args.config_yaml.clone().unwrap_or_default(),
            log_level: args.log_level.clone().unwrap_or_default(),
            log_path: args.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            service_cluster: args.service_cluster.clone(),
            service_node: args.service_node.clone(),
            drain_time: args.drain_time(),
        }
    }

    /// Carries out commands until the process is to end, and drains.
    async fn wait(&self, shutdown: &Shutdown, mut reload: Reload, mut commands: mpsc::Receiver<Order>) -> u8 {
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                () = reload.requested() => {
                    // The writer is gone only when the process ends anyway.
                    let _ = self.handles.events.send(Event::Reload).await;
                }
                Some(order) = commands.recv() => {
                    if order.command == Command::Quit {
                        return exit::DONE;
                    }
                    self.carry_out(order).await;
                }
            }
        }
        tracing::info!(deadline_s = self.args.drain_time_s, "draining: inbound, then outbound");
        tokio::select! {
            _whole = drain::drain(&self.state, self.args.drain_time()) => exit::DONE,
            () = shutdown.aborted() => exit::FAILED,
            () = quit(&mut commands) => exit::DONE,
        }
    }

    async fn carry_out(&self, order: Order) {
        let Order { command, done } = order;
        match &command {
            Command::Drain { inbound_only, graceful, skip_exit } => {
                let directions: &[Direction] = if *inbound_only {
                    &[Direction::Inbound]
                } else {
                    &[Direction::Inbound, Direction::Outbound]
                };
                for direction in directions.iter().copied() {
                    let (state, wait) = (Arc::clone(&self.state), self.args.drain_time());
                    if *graceful || *skip_exit {
                        state.set_drain(direction, Drain::Announce);
                    }
                    match (graceful, skip_exit) {
                        (_, true) => {}
                        (false, false) => state.stop_listeners(direction),
                        (true, false) => drop(tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            state.stop_listeners(direction);
                        })),
                    }
                }
            }
            Command::FailHealthCheck(failed) => self.state.set_health_failed(*failed),
            Command::ReopenLogs => self.logs.reopen(),
            Command::ModifyRuntime(changes) => {
                // The writer always responds, unless the process is shutting down.
                let _ = self.handles.events.send(Event::Runtime { changes: changes.clone(), done }).await;
                return;
            }
            Command::Quit => {}
        }
        // The receiver may have gone.
        let _ = done.send(Ok(()));
    }
}

/// Waits for `/quitquitquit`; other commands come too late now.
async fn quit(commands: &mut mpsc::Receiver<Order>) {
    while let Some(order) = commands.recv().await {
        if order.command == Command::Quit {
            return;
        }
    }
    std::future::pending::<()>().await;
}
