//! The load client: requests at a fixed rate, whatever becomes of the earlier ones. It never tries anything twice.
//!
//! Used by the tests; calls `http` and fills a `report`.

pub mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;

pub use self::report::{Outcome, Record, Report};
use crate::http::{self, Answer, Connection, Failure};

/// Requests under way at most; one more counts as failed, it is not held back.
const MAX_IN_FLIGHT: usize = 512;

/// Idle connections that are kept for the next request.
const MAX_IDLE: usize = 64;

/// Whether requests share connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Each request opens its own.
    Fresh,
    /// A request takes an idle one if there is any.
    Kept,
}

/// What to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// The path of each GET.
    pub path: String,
    /// What the body of a right answer contains.
    pub expected: String,
    /// Requests per second.
    pub rate: u32,
    /// How.
    pub connections: Connections,
}

/// A load that is being sent.
pub struct Running {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Report>,
}

impl Load {
    /// Begins to send.
    #[must_use]
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        Running { stop, task: tokio::spawn(send(self, stopped)) }
    }
}

impl Running {
    /// Stops sending, waits for the last answers, and tells.
    pub async fn finish(self) -> Report {
        let _ = self.stop.send(true);
        self.task.await.expect("the load client itself fails")
    }
}

/// Request number n is due n/rate seconds after the beginning; a late client catches up, it leaves nothing out.
async fn send(load: Load, mut stopped: watch::Receiver<bool>) -> Report {
    let began = Instant::now();
    let load = Arc::new(load);
    let idle = Arc::new(Mutex::new(Vec::new()));
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut requests = JoinSet::new();
    let mut sent = 0;
    let ended = loop {
        let stop = *stopped.borrow();
        let now = began.elapsed();
        let due = (now.as_secs_f64() * f64::from(load.rate)) as u64;
        while sent < due {
            sent += 1;
            requests.spawn(one(load.clone(), idle.clone(), in_flight.clone(), began));
        }
        if stop {
            break now;
        }
        let next = began + Duration::from_secs_f64((sent + 1) as f64 / f64::from(load.rate));
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = stopped.changed() => {}
        }
    };
    let mut records = requests.join_all().await;
    records.sort_by_key(|record| record.at);
    Report { began, planned: (ended.as_secs_f64() * f64::from(load.rate)) as u64, sent, records }
}

async fn one(
    load: Arc<Load>,
    idle: Arc<Mutex<Vec<Connection>>>,
    in_flight: Arc<Semaphore>,
    began: Instant,
) -> Record {
    let at = began.elapsed();
    let outcome = match in_flight.try_acquire() {
        Err(_) => Outcome::Failed(format!("{MAX_IN_FLIGHT} requests are under way already")),
        Ok(_permit) => {
            let whole = exchange(&load, &idle);
            judge(
                tokio::time::timeout(http::PATIENCE, whole).await.unwrap_or(Err(Failure::Timeout)),
                &load.expected,
            )
        }
    };
    Record { at, took: began.elapsed() - at, outcome }
}

async fn exchange(load: &Load, idle: &Mutex<Vec<Connection>>) -> Result<Answer, Failure> {
    let host = load.address.to_string();
    let mut connection = match kept(idle).await.filter(|_| load.connections == Connections::Kept) {
        Some(connection) => connection,
        None => http::connect(load.address).await?,
    };
    let answer = http::exchange(&mut connection, &host, &load.path, &[("user-agent", "e2e-load")]).await?;
    let mut idle = idle.lock().await;
    if load.connections == Connections::Kept && idle.len() < MAX_IDLE {
        idle.push(connection);
    }
    Ok(answer)
}

/// An idle connection that its server has not closed; which ones are closed is known before anything is sent on them.
async fn kept(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().await;
    while let Some(mut connection) = idle.pop() {
        if connection.ready().await.is_ok() {
            return Some(connection);
        }
    }
    None
}

fn judge(answer: Result<Answer, Failure>, expected: &str) -> Outcome {
    match answer {
        Ok(answer) if answer.status == 200 && answer.body.contains(expected) => Outcome::Answered,
        Ok(answer) if answer.status == 503 && report::means_refused(&answer.body) => {
            Outcome::Refused(answer.body)
        }
        Ok(answer) => Outcome::Failed(format!("{} {}", answer.status, answer.body)),
        Err(Failure::Refused) => Outcome::Refused("connection refused".to_owned()),
        Err(Failure::Broken(why)) => Outcome::Failed(why),
        Err(Failure::Timeout) => Outcome::Failed(format!("no answer within {} s", http::PATIENCE.as_secs())),
    }
}
