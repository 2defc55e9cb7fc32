//! The petmesh command: arguments, the command, the exit code (0 done, 1 failed, 2 wrong usage).

mod args;
mod config;
mod control;
mod logs;
mod table;
mod up;

use std::process::ExitCode;

use clap::Parser;
use local_mesh::dir::Dir;

use crate::args::{Args, Command, ConfigCommand};

fn main() -> ExitCode {
    let Args { dir, command } = Args::parse();
    let dir = Dir::new(dir);
    let done = match command {
        Command::Up(up) => up::up(&dir, &up),
        Command::Ps { output } => control::ps(&dir, output),
        Command::Logs { pod, container, follow } => logs::logs(&dir, &pod, container, follow),
        Command::Scale { replicas: (service, replicas), now } => {
            control::scale(&dir, &service, replicas, now)
        }
        Command::Kill { pod, signal } => control::kill(&dir, pod, signal),
        Command::Restart { name } => control::restart(&dir, &name),
        Command::Down => control::down(&dir),
        Command::Config { command: ConfigCommand::Validate { files, format, pod } } => {
            config::validate(&files, format, pod)
        }
        Command::Config { command: ConfigCommand::Upgrade { file, format } } => {
            config::upgrade(&file, format)
        }
        Command::Config { command: ConfigCommand::Explain { code } } => config::explain(code.as_deref()),
        Command::Supervise => up::supervise(),
        Command::Fault { fault } => control::fault(&dir, fault),
        Command::ExecChild { parent, signal, command } => {
            let error = local_mesh::process::exec_child(parent, signal, &command);
            eprintln!("petmesh: {error}");
            return ExitCode::from(127);
        }
        Command::WatchParent { parent, signal } => {
            local_mesh::process::watch_parent(parent, signal);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What was printed already is not said twice.
            if !error.is::<config::Reported>() {
                eprintln!("petmesh: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
