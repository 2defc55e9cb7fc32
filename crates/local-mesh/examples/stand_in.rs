//! A stand-in for every program of the mesh, for the supervisor's own tests: it answers 200 to everything.
//!
//! Its role is the name that it is called by (`pet`, `proxy`, …) or, as `petmesh`, its first
//! argument. With `STAND_IN_CRASH=NAME` the program NAME ends at once with words on standard error.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let name = Path::new(&args[0]).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if args.get(1).is_some_and(|arg| arg == "exec-child") {
        let command: Vec<_> = args.iter().skip(5).map(Into::into).collect();
        let parent = args[3].parse().map_err(std::io::Error::other)?;
        return Err(local_mesh::process::exec_child(parent, local_mesh::process::Signal::KILL, &command));
    }
    if args.get(1).is_some_and(|arg| arg == "supervise") {
        return supervise();
    }
    if std::env::var("STAND_IN_CRASH").is_ok_and(|crash| crash == name) {
        eprintln!("the stand-in for {name} has been told to crash");
        std::process::exit(3);
    }
    let value = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1)).cloned();
    match name.as_str() {
        "proxy" | "ingress" => serve_all(&value("-c").unwrap_or_default()),
        "sds" => answer(&TcpListener::bind(value("--listen").unwrap_or_default())?),
        _ => answer(&TcpListener::bind(std::env::var("LISTEN_ADDR").map_err(std::io::Error::other)?)?),
    }
}

/// The inbound and probe listeners of a proxy, at the address in its file.
fn serve_all(config: &str) -> std::io::Result<()> {
    let text = std::fs::read_to_string(config)?;
    let address =
        text.split("address: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let inbound = TcpListener::bind((address, local_mesh::plan::INBOUND))?;
    let probes = TcpListener::bind((address, local_mesh::plan::PROBES))?;
    std::thread::spawn(move || answer(&probes));
    println!("an access log line");
    answer(&inbound)
}

fn answer(listener: &TcpListener) -> std::io::Result<()> {
    for stream in listener.incoming() {
        // A probe that has gone is no matter.
        let _ = reply(stream?);
    }
    Ok(())
}

fn reply(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

fn supervise() -> std::io::Result<()> {
    let options = serde_json::from_reader(std::io::stdin())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tell = |progress| {
        if matches!(progress, local_mesh::Progress::Up { .. }) {
            println!("up");
        }
    };
    let ended = runtime.block_on(local_mesh::supervise(options, tell, std::future::pending()));
    ended.map(drop).map_err(std::io::Error::other)
}
