//! Spans of requests, as Envoy's Zipkin tracer makes them: who is traced, what goes on in the request's fields, what the collector gets.
//!
//! `context` is B3 and traceparent, `span` what is sent, `outbox` the way to the collector.

use std::sync::Arc;

use crate::message::{FieldValue, Known, RequestHead};
use crate::stats::{Scope, TracingStats};

mod context;
mod outbox;
mod span;

pub use context::{Ids, Incoming, read};
pub use outbox::{Collector, Outbox};
pub use span::Span;

/// How a connection manager traces.
#[derive(Debug)]
pub struct Tracing {
    pub sampling: Sampling,
    pub stats: Arc<Scope<TracingStats>>,
    /// The requests leave this service: spans are the client's.
    pub egress: bool,
    pub max_path: usize,
    pub tags: Vec<(Box<str>, Tag)>,
    pub node: Box<str>,
    pub service: Box<str>,
    pub wide: bool,
    pub shared: bool,
    pub w3c: bool,
    pub outbox: Arc<Outbox>,
}

/// Where a custom tag has its value from.
#[derive(Debug)]
pub enum Tag {
    Fixed(Box<str>),
    /// A field of the request, and the value without it.
    Header(Box<str>, Box<str>),
}

/// Shares of the requests, each as a numerator and a denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    pub client: (u32, u32),
    pub random: (u32, u32),
    pub overall: (u32, u32),
}

/// The name of a span, from the route.
#[derive(Clone, Debug)]
pub struct Decorator {
    pub operation: Arc<str>,
    pub propagate: bool,
}

/// Why a request is traced; the digit is the version digit of its `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    No = b'4' as isize,
    Sampled = b'9' as isize,
    Forced = b'a' as isize,
    Client = b'b' as isize,
}

/// The place of that digit.
const DIGIT: usize = 14;

/// Begins the span of a request, and writes its context into the request's fields; `None` when the request's own context is broken.
/// `random` are two numbers by chance, never 0 together.
pub fn begin(
    tracing: &Tracing,
    shard: usize,
    head: &mut RequestHead,
    route: (Option<&Sampling>, Option<&Decorator>),
    random: [u64; 2],
) -> Option<Span> {
    let traced = decide(tracing, shard, head, route.0.unwrap_or(&tracing.sampling));
    let incoming = read(&head.fields, tracing.w3c)?;
    let sampled = incoming.sampled.unwrap_or(traced);
    let shares = !tracing.egress && tracing.shared;
    let ids = match incoming.ids {
        Some(before) if shares => Ids { sampled, ..before },
        Some(before) => Ids { id: random[0], parent: Some(before.id), sampled, ..before },
        None => Ids {
            high: if tracing.wide { random[1] } else { 0 },
            trace: random[0],
            id: random[0],
            parent: None,
            sampled,
        },
    };
    ids.write(&mut head.fields, incoming.single, tracing.w3c);
    let mut span = Span { ids, operation: None, announce: None, shared: shares };
    if let Some(decorator) = route.1 {
        span.operation = Some(Arc::clone(&decorator.operation));
        span.announce = decorator.propagate.then(|| Arc::clone(&decorator.operation));
    }
    if tracing.egress {
        if let Some(operation) = span.announce.take() {
            head.fields.set(Known::XEnvoyDecoratorOperation, format_args!("{operation}"));
        }
    } else if let Some(said) = text(head.fields.get(Known::XEnvoyDecoratorOperation)) {
        span.operation = Some(said);
        span.announce = None;
        head.fields.remove(Known::XEnvoyDecoratorOperation);
    }
    Some(span)
}

fn text(value: Option<&[u8]>) -> Option<Arc<str>> {
    value.filter(|value| !value.is_empty()).map(|value| String::from_utf8_lossy(value).as_ref().into())
}

/// Whether a request is traced: by what its id says, else by what it asks for, else by chance. The id says it from now on.
fn decide(tracing: &Tracing, shard: usize, head: &mut RequestHead, sampling: &Sampling) -> bool {
    let stats = tracing.stats.shard(shard);
    let id = head.fields.get(Known::XRequestId).map(<[u8]>::to_vec);
    let chance = id.as_deref().and_then(number);
    let (Some(mut id), Some(chance)) = (id, chance) else {
        stats.not_traceable.inc();
        return false;
    };
    let within = |(numerator, denominator): (u32, u32)| chance % denominator.max(1) < numerator;
    let mut reason = match id.get(DIGIT) {
        Some(b'9') => Reason::Sampled,
        Some(b'a') => Reason::Forced,
        Some(b'b') => Reason::Client,
        _ => Reason::No,
    };
    if reason == Reason::No {
        if head.fields.contains("x-client-trace-id") && within(sampling.client) {
            reason = Reason::Client;
        } else if head.fields.contains(Known::XEnvoyForceTrace) {
            reason = Reason::Forced;
        } else if within(sampling.random) {
            reason = Reason::Sampled;
        }
    }
    if !within(sampling.overall) {
        reason = Reason::No;
    }
    let digit = u8::try_from(reason as isize).unwrap_or(b'4');
    if let Some(slot) = id.get_mut(DIGIT)
        && *slot != digit
    {
        *slot = digit;
        if let Ok(id) = FieldValue::new(&id) {
            head.fields.set(Known::XRequestId, id);
        }
    }
    match reason {
        Reason::No => stats.not_traceable.inc(),
        Reason::Sampled => stats.random_sampling.inc(),
        Reason::Forced => stats.service_forced.inc(),
        Reason::Client => stats.client_enabled.inc(),
    }
    reason != Reason::No
}

/// The first digits of a UUID: the chance that all services agree on.
fn number(id: &[u8]) -> Option<u32> {
    let whole = id.len() == 36;
    u32::from_str_radix(std::str::from_utf8(id.get(..8).filter(|_| whole)?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests;
