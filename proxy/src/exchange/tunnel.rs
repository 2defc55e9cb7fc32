//! Requests that leave HTTP: upgrades (RFC 9110, 7.8) and CONNECT. Whether they may, and the bytes both ways once the upstream agreed.
//!
//! Nothing that the client sends behind its request goes on before the upstream has agreed, so that it cannot pass for another request.

use std::cell::Cell;
use std::pin::{Pin, pin};

use tokio::time::Sleep;

use super::forward::{Failure, RequestSide, Tries};
use super::timers::Timers;
use super::upload::{Ended, Progress};
use super::{Exchange, Matched, nothing};
use crate::attempt::{Attempt, Report};
use crate::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::error::UpstreamError;
use crate::headers::request::is_upgrade;
use crate::local_reply::LocalReply;
use crate::message::{FieldValueBuf, Frame, Known, Method};
use crate::route::{Action, Upgrades};
use crate::upstream::{RequestWriter, ResponseReader, UpstreamStream};

impl Exchange<'_> {
    /// Whether the request may leave HTTP, where it asks for that: as its route says, else as the connection manager does.
    pub(super) fn admit_tunnel(&mut self, matched: Option<Matched<'_>>) -> Result<(), LocalReply> {
        let connect = self.request.method == Method::Connect;
        if !connect && !is_upgrade(&self.request) {
            return Ok(());
        }
        let asked = if connect {
            &b"CONNECT"[..]
        } else {
            self.request.fields.get(Known::Upgrade).unwrap_or_default()
        };
        let of_route = matched.and_then(|matched| match &matched.route.action {
            Action::Forward(forward) => forward.upgrades.allow(asked),
            Action::Redirect(_) | Action::Direct { .. } => None,
        });
        let http = self.context.http();
        if !of_route.or_else(|| self.context.manager.upgrades.allow(asked)).unwrap_or(false) {
            http.downstream_rq_ws_on_non_ws_route.inc();
            return Err(LocalReply::upgrade_failed());
        }
        http.downstream_cx_upgrades_total.inc();
        http.downstream_cx_upgrades_active.inc();
        self.tunnel = true;
        Ok(())
    }

    /// One try of such a request; false, as its connection carries no other one.
    pub(super) async fn converse_as_tunnel(
        &mut self,
        down: &mut Downstream<'_>,
        attempt: &Attempt,
        stream: &mut UpstreamStream,
        tries: &mut Tries<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<bool, Failure> {
        let Downstream { rx: body, tx: answer } = down;
        let UpstreamStream { tx, rx, .. } = stream;
        let sending = async {
            tx.head(&self.request, false).await?;
            tx.flush().await
        };
        tokio::select! {
            biased;
            sent = sending => sent.map_err(Failure::Upstream)?,
            expiry = self.timers.expired(timer.as_mut()) => return Err(Failure::Expired(expiry)),
        }
        let mut end = {
            let left = async { Ended::Client(body.closed().await) };
            let mut side = RequestSide { upload: pin!(left), refused: false };
            self.await_head(rx, answer, &mut side, timer.as_mut()).await?
        };
        self.judge_answer(attempt).await;
        if let Some(failure) = self.retry_answer(tries, attempt) {
            return Err(failure);
        }
        self.timers.end_per_try();
        let progress = Progress::default();
        let agreed = self.upstream_agrees();
        let spoken = agreed.then(|| self.spoken()).flatten();
        self.answer_head(attempt, &progress);
        if agreed {
            if let Some((connection, protocol)) = spoken {
                self.response.fields.set(Known::Connection, &connection);
                self.response.fields.set(Known::Upgrade, &protocol);
            }
            self.carry((body, answer), (tx, rx), timer).await;
        } else {
            // An upgrade that is answered as if it were none has no body that the client could tell from the other protocol.
            if self.request.method != Method::Connect && (200..300).contains(&self.response.status) {
                self.response.fields.remove(Known::ContentLength);
                end = true;
            }
            let left = async { Ended::Client(body.closed().await) };
            let mut side = RequestSide { upload: pin!(left), refused: false };
            self.send_answer(answer, rx, &mut side, &progress, timer, end).await;
        }
        attempt.report(if self.complete { Report::Status(self.info.status) } else { Report::Abandoned });
        Ok(false)
    }

    fn upstream_agrees(&self) -> bool {
        match self.request.method {
            Method::Connect => (200..300).contains(&self.response.status),
            _ => self.response.status == 101,
        }
    }

    /// `connection` and `upgrade` of the answer, which the rules for answers would remove; over HTTP/2 there are none.
    fn spoken(&self) -> Option<(FieldValueBuf, FieldValueBuf)> {
        let field = |name: Known| {
            self.response
                .fields
                .value(name)
                .or_else(|| self.request.fields.value(name))
                .map(FieldValueBuf::of)
        };
        (self.request.method != Method::Connect).then_some(())?;
        Some((field(Known::Connection)?, field(Known::Upgrade)?))
    }

    /// Bytes both ways, until one side ends.
    async fn carry(
        &mut self,
        (body, answer): (&mut RequestBody<'_>, &mut ResponseWriter<'_>),
        (tx, rx): (&mut RequestWriter, &mut ResponseReader),
        timer: Pin<&mut Sleep>,
    ) {
        if self.send_head(answer, true, false).await.is_err() {
            return;
        }
        body.tunnel();
        tx.tunnel();
        let (timers, received, sent) = (self.timers, Cell::new(0), Cell::new(0));
        let ended = tokio::select! {
            ended = there(body, tx, timers, &received) => ended,
            ended = back(rx, answer, timers, &sent) => ended,
            expiry = timers.expired(timer) => Err(Failure::Expired(expiry)),
        };
        self.info.bytes_received += received.get();
        self.info.bytes_sent += sent.get();
        match ended {
            Ok(()) => self.complete = true,
            Err(failure) => self.cut(answer, &failure),
        }
    }
}

/// From the client to the upstream. HTTP/1 clients that end their side end the tunnel, as in Envoy.
async fn there(
    body: &mut RequestBody<'_>,
    tx: &mut RequestWriter,
    timers: &Timers,
    bytes: &Cell<u64>,
) -> Result<(), Failure> {
    let over = |_error: UpstreamError| Failure::Upstream(UpstreamError::ConnectionTermination);
    loop {
        let frame = body.next().await.map_err(Failure::Client)?;
        timers.touch();
        match frame {
            Frame::Data(piece) => {
                bytes.set(bytes.get() + piece.len() as u64);
                tx.data(piece, false).await.map_err(over)?;
            }
            Frame::Trailers(_) | Frame::End => {
                tx.data(nothing(), true).await.map_err(over)?;
                if matches!(body, RequestBody::Http1(_)) {
                    return Ok(());
                }
                return std::future::pending().await;
            }
        }
    }
}

/// From the upstream to the client.
async fn back(
    rx: &mut ResponseReader,
    answer: &mut ResponseWriter<'_>,
    timers: &Timers,
    bytes: &Cell<u64>,
) -> Result<(), Failure> {
    answer.flush().await.map_err(Failure::Client)?;
    loop {
        let frame = rx.next().await.map_err(Failure::Upstream)?;
        timers.touch();
        match frame {
            Frame::Data(piece) => {
                bytes.set(bytes.get() + piece.len() as u64);
                answer.data(piece, false).await.map_err(Failure::Client)?;
            }
            Frame::Trailers(_) | Frame::End => {
                return answer.data(nothing(), true).await.map_err(Failure::Client);
            }
        }
    }
}

impl Upgrades {
    /// What is said of a protocol; `None` for nothing.
    fn allow(&self, protocol: &[u8]) -> Option<bool> {
        let said = self.0.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(protocol));
        said.map(|(_, enabled)| *enabled)
    }
}
