//! The only place that invents a response: local replies with Envoy's statuses, texts, flags and details.
//!
//! `LocalReply` has a constructor for each case; `render` makes head and body of it: mapped and formatted as `local_reply_config` says,
//! as trailers-only for gRPC, without a body for HEAD. Date and server are the caller's.

use std::borrow::Cow;

use bytes::Bytes;

use crate::access_log::{LogFilter, LogFormat};
use crate::error::{Flag, UpstreamError};
use crate::format::Context;
use crate::grpc;
use crate::headers::Changes;
use crate::message::{FieldValue, FieldValueBuf, Known, Method, RequestHead, ResponseHead, Version};

mod cases;

pub use cases::details_after_response;

/// An answer of our own, before `local_reply_config` has had its say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    pub status: u16,
    pub body: Bytes,
    /// Envoy's response code detail.
    pub details: Cow<'static, str>,
    /// What the access log says; the caller sets it in the exchange's flags.
    pub flag: Option<Flag>,
    /// Fields besides content type and length.
    pub headers: Vec<(Known, FieldValueBuf)>,
    /// The status for a gRPC client; `None` when it follows from `status`.
    pub grpc_status: Option<u32>,
}

/// `local_reply_config`.
#[derive(Debug, Default)]
pub struct Mappers {
    /// The first whose filter passes applies.
    pub mappers: Vec<Mapper>,
    /// How every local reply's body looks, unless its mapper says otherwise.
    pub body_format: Option<BodyFormat>,
}

/// `ResponseMapper`: what becomes of the replies that the filter means.
#[derive(Debug)]
pub struct Mapper {
    pub filter: LogFilter,
    pub status: Option<u16>,
    pub body: Option<Bytes>,
    /// `body_format_override`.
    pub body_format: Option<BodyFormat>,
    pub headers_to_add: Changes,
}

/// `SubstitutionFormatString` of a body.
#[derive(Debug)]
pub struct BodyFormat {
    pub format: LogFormat,
    /// `content_type`; `None` for `text/plain`, or `application/json` with a JSON format.
    pub content_type: Option<FieldValueBuf>,
}

/// What is to be sent. `head.status` is the status to be logged.
#[derive(Debug)]
pub struct Rendered {
    pub head: ResponseHead,
    /// Empty for HEAD and gRPC: the head is the whole answer.
    pub body: Bytes,
}

impl BodyFormat {
    fn content_type(&self) -> FieldValue<'_> {
        match (&self.content_type, &self.format) {
            (Some(configured), _) => configured.into(),
            (None, LogFormat::Text(_)) => "text/plain".into(),
            (None, LogFormat::Json(_)) => "application/json".into(),
        }
    }
}

/// Makes the answer. `context` is that of the exchange as it stands (status and flag of the reply need not be in it yet); `context.request`
/// may be missing when the request could not be read.
pub fn render(reply: &LocalReply, mappers: &Mappers, context: &Context<'_>) -> Rendered {
    let mut head = ResponseHead::new(reply.status);
    head.version = context.info.version;
    for (name, value) in &reply.headers {
        head.fields.push(*name, value);
    }
    let (body, content_type) = apply(reply, mappers, context, &mut head);
    if context.request.is_some_and(RequestHead::is_grpc) {
        return grpc_answer(reply, head, &body);
    }
    if !body.is_empty() {
        head.fields.push(Known::ContentLength, body.len());
        head.fields.push(Known::ContentType, content_type);
    } else if head.version != Version::Http2 && may_have_length(head.status) {
        head.fields.push(Known::ContentLength, b"0");
    }
    let is_head = context.request.is_some_and(|request| request.method == Method::Head);
    Rendered { head, body: if is_head { Bytes::new() } else { body } }
}

/// Lets `local_reply_config` change status, headers and body; returns the body and its content type.
fn apply<'m>(
    reply: &LocalReply,
    mappers: &'m Mappers,
    context: &Context<'_>,
    head: &mut ResponseHead,
) -> (Bytes, FieldValue<'m>) {
    if mappers.mappers.is_empty() && mappers.body_format.is_none() {
        return (reply.body.clone(), "text/plain".into());
    }
    let mut info = context.info.clone();
    info.status = reply.status;
    if let Some(flag) = reply.flag {
        info.flags.set(flag);
    }
    let mapper = {
        let context = Context { info: &info, response: Some(head), ..*context };
        mappers.mappers.iter().find(|mapper| mapper.filter.passes(&context))
    };
    let body = mapper.and_then(|mapper| mapper.body.clone()).unwrap_or_else(|| reply.body.clone());
    if let Some(mapper) = mapper {
        head.status = mapper.status.unwrap_or(reply.status);
        info.status = head.status;
        let context = Context { info: &info, response: Some(head), ..*context };
        let values = mapper.headers_to_add.evaluate(&context);
        mapper.headers_to_add.apply(&mut head.fields, &values);
    }
    let format = mapper.and_then(|mapper| mapper.body_format.as_ref()).or(mappers.body_format.as_ref());
    let Some(format) = format else { return (body, "text/plain".into()) };
    let text = String::from_utf8_lossy(&body);
    let context = Context { info: &info, response: Some(head), local_reply_body: &text, ..*context };
    let mut out = Vec::new();
    format.format.write(&context, &mut out);
    (out.into(), format.content_type())
}

/// A trailers-only answer: the body becomes the message.
fn grpc_answer(reply: &LocalReply, mut head: ResponseHead, body: &[u8]) -> Rendered {
    let code = reply.grpc_status.unwrap_or_else(|| grpc::status_of_http(head.status));
    head.status = 200;
    head.fields.set(Known::ContentType, b"application/grpc");
    head.fields.push(Known::GrpcStatus, code);
    if !body.is_empty() {
        // Encoded, it is printable.
        if let Ok(message) = FieldValue::new(&grpc::encode_message(body)) {
            head.fields.push(Known::GrpcMessage, message);
        }
    }
    if head.version != Version::Http2 {
        head.fields.push(Known::ContentLength, b"0");
    }
    Rendered { head, body: Bytes::new() }
}

/// Whether an answer without a body has a `content-length` (RFC 9110, 8.6).
fn may_have_length(status: u16) -> bool {
    status >= 200 && status != 204 && status != 304
}

/// The reply that reports a failed try.
impl From<&UpstreamError> for LocalReply {
    fn from(error: &UpstreamError) -> Self {
        Self::upstream(error, false)
    }
}

#[cfg(test)]
mod tests;
