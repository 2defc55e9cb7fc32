//! Spans of requests, as Envoy's Zipkin tracer makes them: which requests are traced, which context
//! the upstream gets, and the bounded queue from the workers to `control`, which sends the spans.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use telemetry::{Sampling as Decision, TraceContext};
use tokio::sync::mpsc;

use crate::message::{FieldValue, Fields, Known, RequestHead};
use crate::stats::{Scope, TracingStats, ZipkinStats};

mod span;

pub(crate) use span::Span;

/// How a connection manager traces.
#[derive(Debug)]
pub(crate) struct Tracing {
    pub sampling: Sampling,
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
pub(crate) enum Tag {
    Fixed(Box<str>),
    /// A header of the request, and the value without it.
    Header(Box<str>, Box<str>),
}

/// Shares of the requests, each as a numerator and a denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampling {
    pub client: (u32, u32),
    pub random: (u32, u32),
    pub overall: (u32, u32),
}

/// The name of a span, from the route.
#[derive(Clone, Debug)]
pub(crate) struct Decorator {
    pub operation: Arc<str>,
    pub propagate: bool,
}

/// Why a request is traced; the digit is the version digit of its `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    No = b'4' as isize,
    Sampled = b'9' as isize,
    Forced = b'a' as isize,
    Client = b'b' as isize,
}

impl Reason {
    /// Counts a request by why it was traced or not.
    pub(crate) fn count(self, stats: &TracingStats, health_check: bool) {
        match self {
            Self::Sampled if !health_check => stats.random_sampling.inc(),
            Self::Forced if !health_check => stats.service_forced.inc(),
            Self::Client if !health_check => stats.client_enabled.inc(),
            _ => stats.not_traceable.inc(),
        }
    }
}

/// The place of that digit.
const DIGIT: usize = 14;

/// Begins the span of a request, and writes its context into the request's headers; `None` when the
/// request's own context is broken. `random` are two numbers by chance, never 0 together.
pub(crate) fn begin(
    tracing: &Tracing,
    reason: Reason,
    head: &mut RequestHead,
    decorator: Option<&Decorator>,
    random: [u64; 2],
) -> Option<Span> {
    let traced = reason != Reason::No;
    let incoming = read(&head.fields, tracing.w3c)?;
    let sampling = if incoming.sampled.unwrap_or(traced) { Decision::Keep } else { Decision::Drop };
    let shares = !tracing.egress && tracing.shared;
    let ids = match incoming.context {
        Some(before) if shares => TraceContext { sampling, ..before },
        Some(before) => {
            TraceContext { span_id: random[0], parent_span_id: Some(before.span_id), sampling, ..before }
        }
        None => TraceContext {
            trace_id: u128::from(if tracing.wide { random[1] } else { 0 }) << 64 | u128::from(random[0]),
            span_id: random[0],
            parent_span_id: None,
            sampling,
        },
    };
    write(&ids, &mut head.fields, incoming.single, tracing.w3c);
    let mut span = Span { ids, operation: None, announce: None, shared: shares };
    if let Some(decorator) = decorator {
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

/// What a request brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Incoming {
    context: Option<TraceContext>,
    sampled: Option<bool>,
    /// In the one header `b3`.
    single: bool,
}

impl Incoming {
    fn of(context: TraceContext, single: bool) -> Self {
        Self { context: Some(context), sampled: decided(context.sampling), single }
    }
}

fn decided(sampling: Decision) -> Option<bool> {
    (sampling != Decision::Undecided).then_some(sampling != Decision::Drop)
}

/// The request's context; `None` when it is broken.
fn read(fields: &Fields, w3c: bool) -> Option<Incoming> {
    let get = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
    if fields.contains("b3") {
        let b3 = get("b3")?;
        // A decision alone names no trace.
        if b3.len() == 1 {
            let sampled = decided(Decision::from_b3(|name| (name == "b3").then_some(b3)));
            return sampled.map(|sampled| Incoming { context: None, sampled: Some(sampled), single: true });
        }
        return TraceContext::from_b3(b3).map(|context| Incoming::of(context, true));
    }
    let sampled = fields.get("x-b3-sampled").map(|value| matches!(value, b"1" | b"true"));
    if fields.contains("x-b3-traceid") && fields.contains("x-b3-spanid") {
        // Envoy takes any other value of x-b3-sampled for a no.
        let context = TraceContext::from_b3_multi(|name| match name {
            "x-b3-sampled" => None,
            name => get(name),
        })?;
        return Some(Incoming { context: Some(context), sampled, single: false });
    }
    match fields.contains("traceparent") && w3c && sampled.is_none() {
        true => {
            TraceContext::from_traceparent(get("traceparent")?).map(|context| Incoming::of(context, false))
        }
        false => Some(Incoming { sampled, ..Incoming::default() }),
    }
}

/// Writes the context for the upstream, in the form in which it came.
fn write(context: &TraceContext, fields: &mut Fields, single: bool, w3c: bool) {
    if single {
        fields.set("b3", format_args!("{}", context.to_b3()));
    } else {
        for (name, value) in context.to_b3_multi() {
            fields.set(name, format_args!("{value}"));
        }
    }
    if w3c {
        fields.set("traceparent", format_args!("{}", context.to_traceparent()));
    }
}

fn text(value: Option<&[u8]>) -> Option<Arc<str>> {
    value.filter(|value| !value.is_empty()).map(|value| String::from_utf8_lossy(value).as_ref().into())
}

/// Why a request is traced, or that it is not: by what its id says, else by what it asks for, else
/// by chance. The id says it from now on.
pub(crate) fn decide(head: &mut RequestHead, sampling: &Sampling) -> Reason {
    let id = head.fields.get(Known::XRequestId).map(<[u8]>::to_vec);
    let chance = id.as_deref().and_then(number);
    let (Some(mut id), Some(chance)) = (id, chance) else {
        return Reason::No;
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
    reason
}

/// The first digits of a UUID: the chance that all services agree on.
fn number(id: &[u8]) -> Option<u32> {
    let whole = id.len() == 36;
    u32::from_str_radix(std::str::from_utf8(id.get(..8).filter(|_| whole)?).ok()?, 16).ok()
}

/// Spans that may wait.
const WAITING: usize = 1024;

/// Where spans go.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    pub cluster: Arc<str>,
    pub path: Arc<str>,
    pub host: Arc<str>,
    /// A batch is sent when it has this many spans (`tracing.zipkin.min_flush_spans`), or after `interval`.
    pub batch: usize,
    pub interval: Duration,
    pub timeout: Duration,
    pub stats: Arc<Scope<ZipkinStats>>,
}

/// The spans of one tracer.
#[derive(Debug)]
pub(crate) struct Outbox {
    spans: mpsc::Sender<String>,
    /// Until somebody sends them.
    taken: Mutex<Option<mpsc::Receiver<String>>>,
    pub collector: Collector,
}

impl Outbox {
    pub(crate) fn new(collector: Collector) -> Self {
        let (spans, receiver) = mpsc::channel(WAITING);
        Self { spans, taken: Mutex::new(Some(receiver)), collector }
    }

    /// The spans, for the sender; can be taken once.
    pub(crate) fn take(&self) -> Option<mpsc::Receiver<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, shard: usize, span: String) {
        if self.spans.try_send(span).is_err() {
            self.collector.stats.shard(shard).spans_dropped.inc();
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/trace.rs"]
mod tests;
