//! Requests that leave HTTP: upgrades (RFC 9110, 7.8) and CONNECT. Whether they may, and the bytes both
//! ways once the upstream agreed.
//!
//! Nothing that the client sends behind its request goes on before the upstream has agreed, so that
//! it cannot pass for another request.

use std::cell::Cell;
use std::pin::pin;
use std::time::Instant;

use super::attempt::{Attempt, Attempts, Failure};
use super::response::{ToClient, flat};
use super::timers::{First, Timers, departure, first, noticed_elsewhere};
use super::upload::Progress;
use super::{Exchange, Phase, nothing};
use crate::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::error::UpstreamError;
use crate::headers::request::is_upgrade;
use crate::local_reply::{LocalReply, details_after_response};
use crate::message::{FieldValueBuf, Frame, Known, Method};
use crate::route::{Action, Upgrades};
use crate::time;
use crate::upstream::{RequestWriter, ResponseReader, UpstreamStream};

impl Exchange<'_> {
    /// Whether the request may leave HTTP, where it asks for that: as its route says, else as the
    /// connection manager does. Without a route it is an ordinary request, which gets 404.
    pub(super) fn admit_tunnel(&mut self, has_route: bool) -> Result<(), LocalReply> {
        let head = &self.request.head;
        let connect = head.method == Method::Connect;
        if !has_route || !connect && !is_upgrade(head) {
            return Ok(());
        }
        let asked =
            if connect { &b"CONNECT"[..] } else { head.fields.get(Known::Upgrade).unwrap_or_default() };
        let of_route = self.request.matched.and_then(|matched| match &matched.route.action {
            Action::Forward(forward) => forward.upgrades.allow(asked),
            Action::Redirect(_) | Action::Direct { .. } => None,
        });
        let context = self.record.context;
        let http = context.http();
        if !of_route.or_else(|| context.manager.upgrades.allow(asked)).unwrap_or(false) {
            http.downstream_rq_ws_on_non_ws_route.inc();
            return Err(LocalReply::upgrade_failed());
        }
        http.downstream_cx_upgrades_total.inc();
        http.downstream_cx_upgrades_active.inc();
        self.request.tunnel = true;
        Ok(())
    }

    /// One attempt of such a request; false, as its connection carries no other one.
    pub(super) async fn converse_as_tunnel(
        &mut self,
        down: &mut Downstream<'_>,
        attempt: &Attempt,
        stream: &mut UpstreamStream,
        attempts: &mut Attempts<'_>,
    ) -> Result<bool, Failure> {
        let Downstream { rx: body, tx: to_client } = down;
        let UpstreamStream { tx, rx, version, .. } = stream;
        let written = self.timers.race(body.closed(), tx.head(&self.request.head, false)).await?;
        written.map_err(Failure::Upstream)?;
        self.timers.race(body.closed(), tx.flush()).await?.map_err(Failure::Upstream)?;
        let read = {
            let client = pin!(body.closed());
            let stats = attempts.cluster.stats();
            self.response_head(&mut ToClient { tx: to_client, client }, rx, stats).await
        };
        attempts.retry_permit = None;
        let mut end = read?;
        attempt.report_response(&self.record.context.local, &self.request.head, &self.response.head);
        if let Some(failure) = self.retry_response(attempts, attempt) {
            return Err(failure);
        }
        self.timers.end_per_try();
        let agreed = self.upstream_agrees();
        let protocol = agreed.then(|| self.agreed_protocol()).flatten();
        self.take_over_response(attempt, &Progress::default());
        if agreed {
            if let Some((connection, protocol)) = protocol {
                let fields = &mut self.response.head.fields;
                fields.set(Known::Connection, &connection);
                fields.set(Known::Upgrade, &protocol);
            }
            let is_over = self.carry((body, to_client), (tx, rx)).await;
            // Envoy closes the connection of a CONNECT itself.
            if is_over && self.request.head.method != Method::Connect {
                stream.lost();
            }
        } else {
            // If the upstream does not upgrade, the body could be taken for the other protocol.
            let ordinary = self.request.head.method != Method::Connect;
            if ordinary && (200..300).contains(&self.response.head.status) {
                self.response.head.fields.remove(Known::ContentLength);
                end = true;
            }
            let client = pin!(body.closed());
            let limits = attempt.trailer_limits(*version);
            self.send_response(&mut ToClient { tx: to_client, client }, rx, false, end, limits).await;
        }
        self.count_result(attempt);
        Ok(false)
    }

    fn upstream_agrees(&self) -> bool {
        match self.request.head.method {
            Method::Connect => (200..300).contains(&self.response.head.status),
            _ => self.response.head.status == 101,
        }
    }

    /// `connection` and `upgrade` of the response, which the rules for responses remove. What else
    /// `connection` names concerns the upstream's connection alone.
    fn agreed_protocol(&self) -> Option<(FieldValueBuf, FieldValueBuf)> {
        (self.request.head.method != Method::Connect).then_some(())?;
        let (response, request) = (&self.response.head.fields, &self.request.head.fields);
        let is_upgrade = |token: &&[u8]| token.eq_ignore_ascii_case(b"upgrade");
        let connection = response.get(Known::Connection).or_else(|| request.get(Known::Connection))?;
        let token = connection.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).find(is_upgrade);
        let connection = FieldValueBuf::new(token.unwrap_or(b"upgrade")).ok()?;
        let protocol = response.value(Known::Upgrade).or_else(|| request.value(Known::Upgrade))?;
        Some((connection, FieldValueBuf::of(protocol)))
    }

    /// Bytes both ways, until one side ends. True when an HTTP/1 upstream closed its connection.
    async fn carry(
        &mut self,
        (body, to_client): (&mut RequestBody<'_>, &mut ResponseWriter<'_>),
        (tx, rx): (&mut RequestWriter, &mut ResponseReader),
    ) -> bool {
        if self.send_head(to_client, body.closed(), true, false).await.is_err() {
            return false;
        }
        let by_connection = matches!(rx, ResponseReader::Http1(_));
        body.tunnel();
        tx.tunnel();
        // Counted in place: the exchange may be dropped at any time, and is logged then.
        let (timers, received) = (self.timers, self.received);
        let sent = Cell::from_mut(&mut self.record.info.bytes_sent);
        let request_end = Cell::from_mut(&mut self.record.info.request_end);
        let there = there(body, tx, timers, (received, request_end));
        let back = back(rx, to_client, timers, sent);
        // On the heap, so that other requests have no place for it.
        let both = Box::pin(first(there, back));
        let ended = match timers.race(noticed_elsewhere(), both).await {
            Ok(First::One(ended) | First::Other(ended)) => ended,
            Err(interrupt) => Err(interrupt.into()),
        };
        match ended {
            Ok(()) => {
                self.response.phase = Phase::Complete;
                if by_connection {
                    self.record.info.request_end = None;
                    self.record.context.http().downstream_rq_tx_reset.inc();
                    let error = UpstreamError::ConnectionTermination;
                    self.record.info.flags.set(error.flag());
                    self.record.info.details = details_after_response(&error).into();
                }
                by_connection
            }
            Err(failure) => {
                let failed = matches!(failure, Failure::Upstream(UpstreamError::ConnectionTermination));
                if failed && self.request.head.method == Method::Connect {
                    to_client.reset_connect();
                }
                self.cut(to_client, &failure);
                false
            }
        }
    }
}

/// From the client to the upstream, until the client leaves. The end of the client's side is passed
/// on. An HTTP/1 client that ends its side has left, as in Envoy; one of HTTP/2 still reads.
async fn there(
    body: &mut RequestBody<'_>,
    tx: &mut RequestWriter,
    timers: &Timers<'_>,
    (bytes, end): (&Cell<u64>, &Cell<Option<Instant>>),
) -> Result<(), Failure> {
    let over = |_error: UpstreamError| Failure::Upstream(UpstreamError::ConnectionTermination);
    loop {
        let frame = flat(timers.race(noticed_elsewhere(), body.next()).await)?;
        timers.touch();
        match frame {
            Frame::Data(piece) => {
                bytes.set(bytes.get().saturating_add(piece.len() as u64));
                timers.race(body.closed(), tx.data(piece, false)).await?.map_err(over)?;
            }
            Frame::Trailers(_) | Frame::End => {
                if matches!(body, RequestBody::Http2(_)) {
                    end.set(Some(time::now()));
                }
                timers.race(body.closed(), tx.data(nothing(), true)).await?.map_err(over)?;
                return Err(Failure::Client(departure(body).await));
            }
        }
    }
}

/// From the upstream to the client, whose departure the other direction notices.
async fn back(
    rx: &mut ResponseReader,
    to_client: &mut ResponseWriter<'_>,
    timers: &Timers<'_>,
    bytes: &Cell<u64>,
) -> Result<(), Failure> {
    flat(timers.race(noticed_elsewhere(), to_client.flush()).await)?;
    loop {
        let frame = timers.race(noticed_elsewhere(), rx.next()).await?.map_err(Failure::Upstream)?;
        timers.touch();
        match frame {
            Frame::Data(piece) => {
                bytes.set(bytes.get().saturating_add(piece.len() as u64));
                flat(timers.race(noticed_elsewhere(), to_client.data(piece, false)).await)?;
            }
            Frame::Trailers(_) | Frame::End => {
                return flat(timers.race(noticed_elsewhere(), to_client.data(nothing(), true)).await);
            }
        }
    }
}

impl Upgrades {
    /// The setting for a protocol; `None` if there is none.
    fn allow(&self, protocol: &[u8]) -> Option<bool> {
        let said = self.0.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(protocol));
        said.map(|(_, enabled)| *enabled)
    }
}
