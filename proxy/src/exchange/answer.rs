//! The answers that the proxy invents, and the head of any answer on its way to the client.

use super::forward::Failure;
use super::{Exchange, expired};
use crate::downstream::ResponseWriter;
use crate::error::DownstreamError;
use crate::filter::chain::Answering;
use crate::headers;
use crate::local_reply::{self, LocalReply};
use crate::message::{Known, Method};
use crate::state::Drain;
use crate::time;

impl Exchange<'_> {
    /// Sends an answer that the proxy invents.
    pub(super) async fn send_reply(
        &mut self,
        tx: &mut ResponseWriter<'_>,
        request_end: bool,
        reply: LocalReply,
    ) {
        if self.answered {
            tx.reset();
            return;
        }
        if let Some(flag) = reply.flag {
            self.info.flags.set(flag);
        }
        self.info.details = reply.details.clone();
        let rendered = local_reply::render(&reply, &self.context.manager.local_reply, &self.format_context());
        self.response = rendered.head;
        self.attempts_in_response();
        self.decorate_response();
        self.mutate_response();
        self.own_fields();
        // Whatever of the request is still on its way would have to be read first.
        if !request_end {
            tx.close_after();
        }
        // An answer to HEAD has no body, whatever its fields say (HTTP/2 would send it).
        let end = rendered.body.is_empty() || self.request.method == Method::Head;
        if self.send_head(tx, request_end, end).await.is_err() || end {
            return;
        }
        let size = rendered.body.len() as u64;
        let sent = tokio::select! {
            biased;
            sent = tx.data(rendered.body, true) => sent.map_err(Failure::Client),
            expiry = expired(self.timers) => Err(Failure::Expired(expiry)),
        };
        match sent {
            Ok(()) => {
                self.info.bytes_sent += size;
                self.complete = true;
            }
            Err(failure) => self.cut(tx, &failure),
        }
    }

    /// The fields that every answer gets.
    pub(super) fn own_fields(&mut self) {
        let rules = &self.context.manager.rules;
        let response = &mut self.response;
        self.context
            .local
            .date
            .with(self.info.start_time, |date| headers::response::set_own(response, rules, date));
        self.request_id_in_response();
    }

    pub(super) fn attempts_in_response(&mut self) {
        let asked =
            self.matched.is_some_and(|matched| matched.virtual_host.include_attempt_count_in_response);
        if asked && self.info.attempts > 0 {
            self.response.fields.set(Known::XEnvoyAttemptCount, self.info.attempts);
        }
    }

    pub(super) fn request_id_in_response(&mut self) {
        let rules = self.context.manager.rules.request_id;
        if rules.always_in_response
            && let Some(id) = self.request.fields.value(Known::XRequestId)
        {
            self.response.fields.set(Known::XRequestId, id);
        }
    }

    pub(super) async fn send_head(
        &mut self,
        tx: &mut ResponseWriter<'_>,
        request_end: bool,
        end: bool,
    ) -> Result<(), DownstreamError> {
        let health_failed = self.context.local.state.health_failed();
        if let Some(filters) = &mut self.filters {
            filters.response(&mut self.response, Answering { now: time::now(), health_failed });
        }
        self.about_to_answer(request_end);
        self.answered = true;
        // The drain may have begun after the request. A proxy that is told to be unhealthy wants to be left, too.
        if (health_failed || *self.context.drain.borrow() != Drain::No) && tx.close_after() {
            self.context.http().downstream_cx_drain_close.inc();
        }
        let sent = tokio::select! {
            biased;
            sent = tx.head(&self.response, end) => sent,
            expiry = expired(self.timers) => {
                self.cut(tx, &Failure::Expired(expiry));
                return Err(DownstreamError::Reset);
            }
        };
        match sent {
            Ok(()) => self.complete = end,
            Err(error) => self.client_left(error),
        }
        sent
    }

    /// The last changes to the head of the answer, and its counts.
    fn about_to_answer(&mut self, request_end: bool) {
        let status = self.response.status;
        self.info.status = status;
        let http = self.context.http();
        http.downstream_rq_completed.inc();
        http.downstream_rq_codes.record(status);
        let listener = self.context.listener_http();
        listener.downstream_rq_completed.inc();
        listener.downstream_rq_codes.record(status);
        if !request_end {
            http.downstream_rq_response_before_rq_complete.inc();
        }
    }
}
