//! A stand-in for the exchange: answers each request with what it said.
//!
//! Called by `connection`; calls `downstream`.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use crate::downstream::{Downstream, ResponseWriter};
use crate::error::DownstreamError;
use crate::http1::Refusal;
use crate::message::{Frame, RequestHead, ResponseHead};
use crate::snapshot::{HttpManager, Listener};
use crate::state::Drain;
use crate::stats::HttpStats;
use crate::stream_info::ConnectionInfo;

/// What the exchanges of one connection share.
pub struct ConnectionContext {
    pub listener: Arc<Listener>,
    pub manager: Arc<HttpManager>,
    pub info: Rc<ConnectionInfo>,
    /// The worker's shard of the statistics.
    pub shard: usize,
    pub drain: watch::Receiver<Drain>,
}

impl ConnectionContext {
    pub fn http(&self) -> &HttpStats {
        self.manager.stats.shard(self.shard)
    }
}

pub struct Outcome {
    /// The answer was sent whole.
    pub keep_alive: bool,
    /// Its buffers, for the next request.
    pub head: RequestHead,
}

/// Echoes the body; `/early` answers without reading it.
pub async fn run(context: &Rc<ConnectionContext>, head: RequestHead, down: Downstream<'_>) -> Outcome {
    context.http().downstream_rq_total.inc();
    let keep_alive = echo(&head, down).await.is_ok();
    Outcome { keep_alive, head }
}

pub async fn refuse(
    _context: &Rc<ConnectionContext>,
    refusal: Refusal,
    _head: &RequestHead,
    writer: &mut ResponseWriter<'_>,
) {
    let mut answer = ResponseHead::new(refusal.status);
    answer.fields.push("content-length", refusal.body.len().to_string().as_bytes());
    let _ = writer.head(&answer, refusal.body.is_empty()).await;
    let _ = writer.data(refusal.body.into(), true).await;
}

async fn echo(head: &RequestHead, mut down: Downstream<'_>) -> Result<(), DownstreamError> {
    let mut answer = ResponseHead::new(200);
    answer.fields.push("x-path", &head.path);
    if head.path == b"/early" {
        return down.tx.head(&answer, true).await;
    }
    if head.path == b"/hang" {
        return Err(down.rx.closed().await);
    }
    if down.rx.is_end() {
        return down.tx.head(&answer, true).await;
    }
    let mut begun = false;
    loop {
        let frame = down.rx.next().await?;
        if !begun {
            // An answer before the end of the request would close the connection.
            begun = down.rx.is_end() || head.path == b"/stream";
        }
        match frame {
            Frame::Data(data) => {
                down.tx.head(&answer, false).await?;
                down.tx.data(data, down.rx.is_end()).await?;
                if down.rx.is_end() {
                    return Ok(());
                }
            }
            Frame::Trailers(trailers) => {
                down.tx.head(&answer, false).await?;
                return down.tx.trailers(&trailers).await;
            }
            Frame::End => {
                down.tx.head(&answer, false).await?;
                return down.tx.data(bytes::Bytes::new(), true).await;
            }
        }
    }
}
