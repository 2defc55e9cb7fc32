//! The answer's way back: piece by piece to the client, and what its breaking off means.

use std::borrow::Cow;
use std::pin::Pin;

use tokio::time::Sleep;

use super::forward::{Failure, RequestSide};
use super::upload::{Ended, Progress};
use super::{Exchange, nothing};
use crate::downstream::ResponseWriter;
use crate::error::Flag;
use crate::local_reply::details_after_response;
use crate::message::Frame;
use crate::upstream::ResponseReader;

impl Exchange<'_> {
    /// Sends the answer on as it comes. True when the upstream's answer was whole.
    pub(super) async fn send_answer(
        &mut self,
        answer: &mut ResponseWriter<'_>,
        rx: &mut ResponseReader,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        progress: &Progress,
        mut timer: Pin<&mut Sleep>,
        end: bool,
    ) -> bool {
        if self.send_head(answer, progress.received.get().is_some(), end).await.is_err() || end {
            return end;
        }
        loop {
            let frame = tokio::select! {
                biased;
                frame = rx.next() => frame.map_err(Failure::Upstream),
                flushed = answer.flush(), if answer.needs_flush() => match flushed {
                    Ok(()) => continue,
                    Err(error) => Err(Failure::Client(error)),
                },
                error = side.client_left() => Err(Failure::Client(error)),
                expiry = self.timers.expired(timer.as_mut()) => Err(Failure::Expired(expiry)),
            };
            self.timers.touch();
            let (last, sent) = match frame {
                Err(failure) => {
                    self.cut(answer, &failure);
                    return false;
                }
                Ok(Frame::Trailers(trailers)) => {
                    let sent = tokio::select! {
                        biased;
                        sent = answer.trailers(&trailers) => sent.map_err(Failure::Client),
                        expiry = self.timers.expired(timer.as_mut()) => Err(Failure::Expired(expiry)),
                    };
                    self.trailers = Some(trailers);
                    (true, sent)
                }
                Ok(Frame::End) => {
                    (true, self.send_piece(answer, nothing(), true, side, timer.as_mut()).await)
                }
                Ok(Frame::Data(piece)) => {
                    (false, self.send_piece(answer, piece, false, side, timer.as_mut()).await)
                }
            };
            if let Err(failure) = sent {
                self.cut(answer, &failure);
                return last;
            }
            if last {
                self.complete = true;
                return true;
            }
        }
    }

    /// A piece of the body, to a client that may be slow to take it.
    async fn send_piece(
        &mut self,
        answer: &mut ResponseWriter<'_>,
        piece: bytes::Bytes,
        end: bool,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        if self.filters.is_some() {
            return self.send_slowly(answer, piece, end, side, timer).await;
        }
        self.send_part(answer, piece, end, side, timer).await
    }

    /// A part of a piece that no filter holds back.
    pub(super) async fn send_part(
        &mut self,
        answer: &mut ResponseWriter<'_>,
        piece: bytes::Bytes,
        end: bool,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        let size = piece.len() as u64;
        tokio::select! {
            biased;
            sent = answer.data(piece, end) => sent.map_err(Failure::Client)?,
            error = side.client_left() => return Err(Failure::Client(error)),
            expiry = self.timers.expired(timer) => return Err(Failure::Expired(expiry)),
        }
        self.info.bytes_sent += size;
        Ok(())
    }

    /// The answer has begun and cannot be ended well.
    pub(super) fn cut(&mut self, answer: &mut ResponseWriter<'_>, failure: &Failure) {
        answer.reset();
        match failure {
            Failure::Client(error) => self.client_left(*error),
            Failure::Upstream(error) => {
                self.cut_by_upstream = true;
                // What ends a body early is a broken message, whoever closed the connection.
                self.info.flags.set(error.flag());
                self.info.details = Cow::Owned(details_after_response(error));
            }
            Failure::Expired(expiry) => {
                let (flag, details) = self.count_expiry(*expiry);
                self.info.flags.set(flag);
                self.info.details = Cow::Borrowed(details);
            }
            Failure::NoHost => self.info.flags.set(Flag::NoHealthyUpstream),
            // An answer that has begun is not tried again.
            Failure::Answer(_) => {}
        }
    }
}
