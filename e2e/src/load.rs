//! The load client: requests at a fixed rate, whatever becomes of the earlier ones. It never tries anything twice.

mod http2;
pub mod report;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;

use self::http2::Multiplexed;
use self::report::Tally;
pub use self::report::{Outcome, Record, Report};
use crate::http::{self, Answer, Connection, Failure};

/// Requests under way at most; one more counts as failed, it is not held back.
const MAX_IN_FLIGHT: usize = 512;

/// Idle connections that are kept for the next requests.
const MAX_IDLE: usize = 64;

/// How the load names itself in access logs.
const AGENT: &str = "e2e-load";

/// Whether requests share connections, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// HTTP/1.1: each request opens its own.
    Fresh,
    /// HTTP/1.1: a request takes an idle one if there is any.
    Kept,
    /// HTTP/2: requests share a few.
    Http2,
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

/// Where the requests of one load find connections.
struct Client {
    load: Load,
    host: String,
    /// In turn, so that each is used often and hears `Connection: close` from a server that drains. One that lay idle for longer than the
    /// announcement could be closed while a request is on its way on it, which no HTTP/1.1 server can prevent (RFC 9112, section 9.5).
    idle: Mutex<VecDeque<Connection>>,
    shared: Multiplexed,
    in_flight: Semaphore,
    began: Instant,
}

/// Request number n is due n/rate seconds after the beginning; a late client catches up, it leaves nothing out.
async fn send(load: Load, mut stopped: watch::Receiver<bool>) -> Report {
    let began = Instant::now();
    let rate = load.rate;
    let client = Arc::new(Client {
        host: load.address.to_string(),
        idle: Mutex::new(VecDeque::new()),
        shared: Multiplexed::new(load.address),
        in_flight: Semaphore::new(MAX_IN_FLIGHT),
        began,
        load,
    });
    let mut requests = JoinSet::new();
    let mut tally = Tally::default();
    let mut sent = 0;
    let ended = loop {
        let stop = *stopped.borrow();
        let now = began.elapsed();
        let due = (now.as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            sent += 1;
            requests.spawn(one(client.clone()));
        }
        // What has ended is counted at once, so that a long load holds no more than what is under way.
        while let Some(record) = requests.try_join_next() {
            tally.add(record.expect("a request of the load client itself fails"));
        }
        if stop {
            break now;
        }
        let next = began + Duration::from_secs_f64((sent + 1) as f64 / f64::from(rate));
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = stopped.changed() => {}
        }
    };
    while let Some(record) = requests.join_next().await {
        tally.add(record.expect("a request of the load client itself fails"));
    }
    tally.report(began, (ended.as_secs_f64() * f64::from(rate)) as u64, sent)
}

async fn one(client: Arc<Client>) -> Record {
    let at = client.began.elapsed();
    let outcome = match client.in_flight.try_acquire() {
        Err(_) => Outcome::Failed(format!("{MAX_IN_FLIGHT} requests are under way already")),
        Ok(_permit) => {
            let answer = tokio::time::timeout(http::PATIENCE, exchange(&client)).await;
            judge(answer.unwrap_or(Err(Failure::Timeout)), &client.load.expected)
        }
    };
    Record { at, took: client.began.elapsed() - at, outcome }
}

async fn exchange(client: &Client) -> Result<Answer, Failure> {
    let Load { address, path, connections, .. } = &client.load;
    let mut connection = match connections {
        Connections::Http2 => return client.shared.exchange(&client.host, path, AGENT).await,
        Connections::Fresh => http::connect(*address).await?,
        Connections::Kept => match kept(&client.idle).await {
            Some(connection) => connection,
            None => http::connect(*address).await?,
        },
    };
    let answer = http::exchange(&mut connection, &client.host, path, &[("user-agent", AGENT)]).await?;
    let mut idle = client.idle.lock().await;
    if *connections == Connections::Kept && idle.len() < MAX_IDLE {
        idle.push_back(connection);
    }
    Ok(answer)
}

/// An idle connection that its server has not closed; which ones are closed is known before anything is sent on them.
async fn kept(idle: &Mutex<VecDeque<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().await;
    while let Some(mut connection) = idle.pop_front() {
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
        Err(Failure::NotProcessed(why)) => Outcome::Refused(why),
        Err(Failure::Broken(why)) => Outcome::Failed(why),
        Err(Failure::Timeout) => Outcome::Failed(format!("no answer within {} s", http::PATIENCE.as_secs())),
    }
}
