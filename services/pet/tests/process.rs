//! The binary itself: its flags, its words and its exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ZIPKIN: &str = "OTEL_EXPORTER_ZIPKIN_ENDPOINT";

fn pet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pet"));
    for variable in ["LISTEN_ADDR", "PET_DELAY", "RUST_LOG", "LOG_FORMAT", ZIPKIN] {
        command.env_remove(variable);
    }
    command.args(arguments);
    command
}

#[test]
fn a_taken_port_is_exit_1_and_a_sentence() -> Result {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = pet(&["--listen-addr", &address]).output()?;
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr)?;
    assert!(words.contains(&format!("pet: cannot listen on {address}: Address already in use")), "{words}");
    Ok(())
}

#[test]
fn wrong_usage_is_exit_2_and_names_the_flag() -> Result {
    for (flag, value) in
        [("--pet-delay", "2"), ("--listen-addr", "8080"), ("--log-level", "loud"), ("--colour", "red")]
    {
        let output = pet(&[flag, value]).output()?;
        assert_eq!(output.status.code(), Some(2), "{flag}");
        assert!(String::from_utf8(output.stderr)?.contains(flag), "{flag}");
    }
    let output = pet(&[]).env("PET_DELAY", "soon").output()?;
    assert_eq!(output.status.code(), Some(2), "a variable is checked like its flag");
    Ok(())
}

#[test]
fn help_names_every_variable() -> Result {
    let help = String::from_utf8(pet(&["--help"]).output()?.stdout)?;
    for word in ["LISTEN_ADDR", "127.0.0.1:8080", "PET_DELAY", "0s", "RUST_LOG", "LOG_FORMAT", ZIPKIN] {
        assert!(help.contains(word), "{word} in\n{help}");
    }
    let version = String::from_utf8(pet(&["--version"]).output()?.stdout)?;
    assert_eq!(version, format!("pet {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}

#[test]
fn it_says_where_it_listens_and_sigterm_is_exit_0() -> Result {
    let mut child = pet(&["--listen-addr", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let first = lines.next().ok_or("no line")??;
    assert!(first.contains("pet listens on 127.0.0.1:"), "{first}");
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_span_of_a_request_reaches_the_collector_before_the_process_ends() -> Result {
    let collector = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}/api/v2/spans", collector.local_addr()?);
    let received = std::thread::spawn(move || -> std::io::Result<String> { receive(&collector) });
    let (mut child, address, mut lines) = start_traced(&endpoint)?;
    assert!(lines.next().ok_or("no line")??.contains(&format!("spans go to {endpoint}")));
    assert!(get(&address, "/livez")?.starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/pets?petStoreId=2")?.starts_with("HTTP/1.1 200"));
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let request = received.join().map_err(|_| "the collector panicked")??;
    assert!(request.starts_with("POST /api/v2/spans HTTP/1.1\r\n"), "{request}");
    let body = request.split("\r\n\r\n").nth(1).unwrap_or_default();
    let spans: serde_json::Value = serde_json::from_str(body)?;
    assert_eq!(spans.as_array().map(Vec::len), Some(1), "{spans}");
    assert_eq!((&spans[0]["kind"], &spans[0]["name"]), (&"SERVER".into(), &"GET /pets".into()));
    assert_eq!(spans[0]["localEndpoint"]["serviceName"], "pet");
    assert_eq!(child.wait()?.code(), Some(0));
    let last = lines.last().ok_or("no line")??;
    assert!(last.contains("exported=1 dropped=0"), "{last}");
    Ok(())
}

#[test]
fn a_collector_that_is_away_or_misspelt_costs_a_line_in_the_log_and_no_request() -> Result {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (mut child, address, lines) = start_traced(&format!("http://{free}/api/v2/spans"))?;
    for _ in 0..3 {
        assert!(get(&address, "/pets?petStoreId=2")?.starts_with("HTTP/1.1 200"));
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let lines = lines.collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!(child.wait()?.code(), Some(0));
    let warnings: Vec<_> = lines.iter().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("Connection refused"), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("exported=0 dropped=3")), "{lines:?}");

    let (mut child, address, mut lines) = start_traced("https://zipkin/")?;
    let warning = lines.next().ok_or("no line")??;
    assert!(warning.contains("WARN") && warning.contains(ZIPKIN), "{warning}");
    assert!(get(&address, "/pets?petStoreId=2")?.starts_with("HTTP/1.1 200"));
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}

#[test]
fn requests_are_logged_and_probes_are_not() -> Result {
    let mut child = pet(&["--listen-addr", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let first = lines.next().ok_or("no line")??;
    let address = first.rsplit(' ').next().unwrap_or_default().to_owned();
    for path in ["/readyz", "/pets?petStoreId=2", "/livez", "/health", "/readyz?verbose"] {
        assert!(get(&address, path)?.starts_with("HTTP/1.1 200"), "{path}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let logged = lines.collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!(child.wait()?.code(), Some(0));
    let about = |path: &str| logged.iter().filter(|line| line.contains(path)).count();
    assert_eq!((about("/pets?petStoreId=2"), about("/health")), (1, 1), "{logged:?}");
    assert_eq!((about("/readyz"), about("/livez")), (0, 0), "{logged:?}");
    Ok(())
}

type Lines = std::io::Lines<BufReader<std::process::ChildStderr>>;

/// The process, its address and its log after the line that names that.
fn start_traced(endpoint: &str) -> Result<(std::process::Child, String, Lines)> {
    let mut command = pet(&["--listen-addr", "127.0.0.1:0"]);
    let mut child = command.env(ZIPKIN, endpoint).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let first = lines.next().ok_or("no line")??;
    let address = first.rsplit(' ').next().unwrap_or_default().to_owned();
    Ok((child, address, lines))
}

fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: pet\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// One request with its body, answered as Zipkin does.
fn receive(collector: &TcpListener) -> std::io::Result<String> {
    let (mut stream, _) = collector.accept()?;
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    while !request.ends_with("\r\n\r\n") {
        let from = request.len();
        reader.read_line(&mut request)?;
        if let Some(value) = request[from..].strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    write!(stream, "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
    Ok(request + &String::from_utf8_lossy(&body))
}
