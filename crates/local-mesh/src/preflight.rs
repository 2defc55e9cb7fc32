//! What must be true before the mesh starts: the programs are there, the addresses exist, the ports are free.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;

use crate::error::{Error, PortInUse};
use crate::plan::{SERVICES, Service};

/// Looks for every program of the mesh in `dir`.
///
/// # Errors
/// [`Error::MissingBinary`] with the names of all that are missing.
pub fn binaries(dir: &Path) -> Result<(), Error> {
    let needed = SERVICES.iter().flat_map(|service| [service.app, service.proxy]).flatten();
    let mut missing: Vec<String> =
        needed.filter(|name| !dir.join(name).is_file()).map(|name| (*name).to_owned()).collect();
    missing.sort();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingBinary { missing, dir: dir.to_owned() }) }
}

/// Tries every port of one pod.
///
/// # Errors
/// [`Error::AddressUnavailable`] if the machine lacks the address; [`Error::PortsInUse`] with all that are taken.
pub fn ports(pod: &str, service: &Service, address: Ipv4Addr) -> Result<(), Error> {
    let mut taken = Vec::new();
    for port in service.ports() {
        let socket = SocketAddrV4::new(address, *port);
        match TcpListener::bind(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(Error::AddressUnavailable(address, alias_command(address)));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                taken.push(PortInUse { address: socket, pod: pod.to_owned(), owner: owner::of(socket) });
            }
            Err(error) => {
                return Err(Error::Refused(format!("cannot listen on {socket} for {pod}: {error}")));
            }
        }
    }
    if taken.is_empty() { Ok(()) } else { Err(Error::PortsInUse(taken)) }
}

/// What to type on macOS: aliases from the address upwards, as many as a usual mesh needs.
fn alias_command(first: Ipv4Addr) -> String {
    let first = first.to_bits();
    let addresses: Vec<String> =
        (first..first + 8).map(|bits| Ipv4Addr::from_bits(bits).to_string()).collect();
    format!("for a in {}; do sudo ifconfig lo0 alias $a up; done", addresses.join(" "))
}

/// Who listens on a port, from Linux's /proc; elsewhere nothing is found, and the message says so.
mod owner {
    use std::fs;
    use std::net::SocketAddrV4;

    /// State number of a listening socket in /proc/net/tcp.
    const LISTEN: &str = "0A";

    /// Process id and name of the listener on `socket`, or on its port at all addresses.
    pub fn of(socket: SocketAddrV4) -> Option<(u32, String)> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = inode(&table, socket)?;
        let wanted = format!("socket:[{inode}]");
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let pid =
            processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
                let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
                files
                    .flatten()
                    .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
            })?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, name.trim_end().to_owned()))
    }

    /// The columns are: number, local address, remote address, state, queues, timer, retransmits, user, timeout, inode.
    fn inode(table: &str, socket: SocketAddrV4) -> Option<&str> {
        let exact = format!("{:08X}:{:04X}", socket.ip().to_bits().swap_bytes(), socket.port());
        let any = format!("00000000:{:04X}", socket.port());
        let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let found = lines.find(|column| {
            column.get(3) == Some(&LISTEN)
                && column.get(1).is_some_and(|local| *local == exact || *local == any)
        })?;
        found.get(9).copied()
    }

    #[cfg(test)]
    mod tests {
        use std::net::Ipv4Addr;

        use super::*;

        #[test]
        fn the_kernels_table_is_read() {
            let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                 0: 0201007F:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n   \
                 1: 0201007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n   \
                 2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100\n";
            let at = |port| inode(table, SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 2), port));
            assert_eq!(at(10000), Some("4711"));
            assert_eq!(at(8080), None, "a connection is no listener");
            assert_eq!(at(8081), Some("4713"), "a listener on all addresses has ours too");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::service;

    #[test]
    fn every_missing_program_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sds"), "").unwrap();
        let error = binaries(dir.path()).unwrap_err().to_string();
        assert!(error.contains("missing ingress, pet, petstore, proxy in"), "{error}");
        assert!(error.contains("make build"), "{error}");
    }

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let address = Ipv4Addr::new(127, 91, 7, 3);
        let _holder = TcpListener::bind((address, crate::plan::APP)).unwrap();
        let error = ports("sds-1", service("sds").unwrap(), address).unwrap_err().to_string();
        assert!(error.contains("127.91.7.3:8080 (for sds-1)"), "{error}");
        if cfg!(target_os = "linux") {
            assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        }
    }

    #[test]
    fn an_address_that_is_not_there_comes_with_the_command_that_makes_it() {
        let error =
            ports("pet-1", service("pet").unwrap(), Ipv4Addr::new(192, 0, 2, 1)).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("ifconfig lo0 alias"), "{error}");
    }
}
