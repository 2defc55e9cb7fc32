//! Ports of 127.0.0.1 for the programs that a test starts.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
/// Below those that the kernel gives to clients.
const COUNT: u32 = 22_000;
/// More than a test needs.
const PER_PROCESS: u32 = 40;

/// A free port, and never the same twice. Tests that run at the same time look in different places,
/// so that no port is taken before the program has it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let place = std::process::id().wrapping_mul(PER_PROCESS) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + place % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
