//! The binary itself: its flags, its words and its exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ZIPKIN: &str = "OTEL_EXPORTER_ZIPKIN_ENDPOINT";

fn petstore(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petstore"));
    for variable in ["LISTEN_ADDR", "SIDECAR_URL", "RUST_LOG", "LOG_FORMAT", ZIPKIN] {
        command.env_remove(variable);
    }
    command.args(arguments);
    command
}

#[test]
fn a_taken_port_is_exit_1_and_a_sentence() -> Result {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = petstore(&["--listen-addr", &address]).output()?;
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr)?;
    assert!(
        words.contains(&format!("petstore: cannot listen on {address}: Address already in use")),
        "{words}"
    );
    Ok(())
}

#[test]
fn wrong_usage_is_exit_2_and_names_the_flag() -> Result {
    for (flag, value) in [
        ("--sidecar-url", "https://127.0.0.1:9900"),
        ("--listen-addr", "8080"),
        ("--log-level", "loud"),
        ("--colour", "red"),
    ] {
        let output = petstore(&[flag, value]).output()?;
        assert_eq!(output.status.code(), Some(2), "{flag}");
        assert!(String::from_utf8(output.stderr)?.contains(flag), "{flag}");
    }
    let output = petstore(&[]).env("SIDECAR_URL", "soon").output()?;
    assert_eq!(output.status.code(), Some(2), "a variable is checked like its flag");
    Ok(())
}

#[test]
fn help_names_every_variable() -> Result {
    let help = String::from_utf8(petstore(&["--help"]).output()?.stdout)?;
    for word in [
        "LISTEN_ADDR",
        "127.0.0.1:8080",
        "SIDECAR_URL",
        "http://127.0.0.1:9900",
        "RUST_LOG",
        "LOG_FORMAT",
        ZIPKIN,
    ] {
        assert!(help.contains(word), "{word} in\n{help}");
    }
    let version = String::from_utf8(petstore(&["--version"]).output()?.stdout)?;
    assert_eq!(version, format!("petstore {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}

#[test]
fn it_says_where_it_listens_and_sigterm_is_exit_0() -> Result {
    let mut child = petstore(&["--listen-addr", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let first = lines.next().ok_or("no line")??;
    assert!(first.contains("petstore listens on 127.0.0.1:"), "{first}");
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

#[test]
fn requests_are_logged_and_probes_are_not() -> Result {
    let mut child = petstore(&["--listen-addr", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let first = lines.next().ok_or("no line")??;
    let address = first.split_whitespace().find_map(|word| word.strip_suffix(';')).unwrap_or_default();
    for path in ["/readyz", "/petstore/2?includePets=false", "/livez", "/health", "/readyz?verbose"] {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: petstore\r\nconnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        assert!(response.starts_with("HTTP/1.1 200"), "{path}: {response}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let logged = lines.collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!(child.wait()?.code(), Some(0));
    let about = |path: &str| logged.iter().filter(|line| line.contains(path)).count();
    assert_eq!((about("/petstore/2?includePets=false"), about("/health")), (1, 1), "{logged:?}");
    assert_eq!((about("/readyz"), about("/livez")), (0, 0), "{logged:?}");
    Ok(())
}
