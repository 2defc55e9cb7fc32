//! What holds a pod of the containers substrate together: the process of the container that owns the pod's network.
//!
//! The app and the proxy share its network namespace, which outlives either of them, as with the pause container of
//! Kubernetes. It also stands for `kubectl port-forward`: each argument `19900=9900` makes a port of the pod's own loopback
//! reachable for the test. Nothing but the standard library: it is linked statically and runs alone in its image.
//! Started by the containers substrate in each pod; calls nothing of ours.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    for argument in std::env::args().skip(1) {
        let ports = argument.split_once('=').map(|(outside, inside)| (outside.parse(), inside.parse()));
        let Some((Ok(outside), Ok(inside))) = ports else {
            eprintln!("error: {argument:?} is not OUTSIDE=INSIDE, two ports such as 19900=9900");
            return ExitCode::from(2);
        };
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, outside)) {
            Ok(listener) => drop(thread::spawn(move || forward(&listener, inside))),
            Err(error) => {
                eprintln!("error: cannot listen on port {outside}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    loop {
        thread::park();
    }
}

/// Joins every connection with one to the port on the pod's loopback.
fn forward(listener: &TcpListener, inside: u16) {
    for stream in listener.incoming() {
        // Without the other side the connection is closed, which is all that the caller has to know.
        let Ok(outer) = stream else { continue };
        let Ok(inner) = TcpStream::connect((Ipv4Addr::LOCALHOST, inside)) else { continue };
        for (from, to) in [(outer.try_clone(), inner.try_clone()), (Ok(inner), Ok(outer))] {
            if let (Ok(from), Ok(to)) = (from, to) {
                thread::spawn(move || copy(from, to));
            }
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // A connection that breaks breaks on both sides.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
