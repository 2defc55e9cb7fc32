//! A TCP check: a connection; or bytes over one, and what must come back.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::health::{Outcome, TcpProbe, holds};

/// Bytes that are kept of what comes; what is looked for must be in them.
const LIMIT: usize = 64 * 1024;

pub(super) struct Checker {
    probe: Arc<TcpProbe>,
    address: SocketAddr,
    reuse: bool,
    connection: Option<TcpStream>,
}

impl Checker {
    pub(super) fn new(probe: Arc<TcpProbe>, address: SocketAddr, reuse: bool) -> Self {
        Self { probe, address, reuse, connection: None }
    }

    pub(super) async fn ask(&mut self) -> Outcome {
        match self.exchange().await {
            Ok(()) => Outcome::Passed { degraded: false },
            Err(_) => {
                self.connection = None;
                Outcome::Network
            }
        }
    }

    pub(super) fn give_up(&mut self) {
        self.connection = None;
    }

    /// Waits until the connection that is kept ends. Unexpected bytes are dropped.
    pub(super) async fn broken(&mut self) {
        let Some(connection) = &mut self.connection else { return std::future::pending().await };
        let mut buffer = [0; 1024];
        while matches!(connection.read(&mut buffer).await, Ok(1..)) {}
        self.connection = None;
    }

    async fn exchange(&mut self) -> std::io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => TcpStream::connect(self.address).await?,
        };
        if self.probe.receive.is_empty() {
            // That there is a connection is all; Envoy sends nothing then either.
            return Ok(());
        }
        connection.set_nodelay(true)?;
        connection.write_all(&self.probe.send).await?;
        let mut seen = Vec::new();
        while !holds(&seen, &self.probe.receive) {
            if seen.len() >= LIMIT || connection.read_buf(&mut seen).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.connection = Some(connection).filter(|_| self.reuse);
        Ok(())
    }
}
