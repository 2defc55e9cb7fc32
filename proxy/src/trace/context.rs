//! The context of a trace in a request's fields: B3 in several fields or in one, and traceparent. Pure.

use crate::message::Fields;

/// Who a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The upper half of a trace id of 128 bits, else 0.
    pub high: u64,
    pub trace: u64,
    pub id: u64,
    pub parent: Option<u64>,
    pub sampled: bool,
}

/// What a request brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    pub ids: Option<Ids>,
    pub sampled: Option<bool>,
    /// In the one field `b3`.
    pub single: bool,
}

/// The request's context; `None` when it is broken.
pub fn read(fields: &Fields, w3c: bool) -> Option<Incoming> {
    if let Some(b3) = fields.get("b3") {
        return single(std::str::from_utf8(b3).ok()?);
    }
    let sampled = fields.get("x-b3-sampled").map(|value| matches!(value, b"1" | b"true"));
    let (trace, id) = (fields.get("x-b3-traceid"), fields.get("x-b3-spanid"));
    let (Some(trace), Some(id)) = (trace, id) else {
        let parent = fields.get("traceparent").filter(|_| w3c && sampled.is_none());
        return match parent {
            Some(value) => traceparent(std::str::from_utf8(value).ok()?),
            None => Some(Incoming { sampled, ..Incoming::default() }),
        };
    };
    let (high, trace) = trace_id(std::str::from_utf8(trace).ok()?)?;
    let id = hex(std::str::from_utf8(id).ok()?)?;
    let parent = match fields.get("x-b3-parentspanid").filter(|value| !value.is_empty()) {
        Some(parent) => Some(hex(std::str::from_utf8(parent).ok()?)?).filter(|parent| *parent != 0),
        None => None,
    };
    let ids = Ids { high, trace, id, parent, sampled: sampled.unwrap_or_default() };
    Some(Incoming { ids: Some(ids), sampled, single: false })
}

/// `trace-span-sampled-parent`, or the decision alone.
fn single(text: &str) -> Option<Incoming> {
    let decision = |text: &str| match text {
        "1" | "d" => Some(true),
        "0" => Some(false),
        _ => None,
    };
    if text.len() == 1 {
        return Some(Incoming { ids: None, sampled: Some(decision(text)?), single: true });
    }
    let mut parts = text.split('-');
    let (trace, id) = (parts.next()?, parts.next()?);
    if !matches!(trace.len(), 16 | 32) || id.len() != 16 {
        return None;
    }
    let sampled = match parts.next() {
        Some(sampled) => Some(decision(sampled)?),
        None => None,
    };
    let parent = match parts.next() {
        Some(parent) if parent.len() == 16 => Some(hex(parent)?),
        Some(_) => return None,
        None => None,
    };
    if parts.next().is_some() {
        return None;
    }
    let (high, trace) = trace_id(trace)?;
    let ids = Ids { high, trace, id: hex(id)?, parent, sampled: sampled.unwrap_or_default() };
    Some(Incoming { ids: Some(ids), sampled, single: true })
}

/// `00-trace-span-flags` (W3C Trace Context, 3.2).
fn traceparent(text: &str) -> Option<Incoming> {
    let mut parts = text.split('-');
    let (version, trace, id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || trace.len() != 32 || id.len() != 16 || flags.len() != 2 || parts.next().is_some() {
        return None;
    }
    let (high, trace) = trace_id(trace)?;
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    let ids = Ids { high, trace, id: hex(id)?, parent: None, sampled };
    Some(Incoming { ids: Some(ids), sampled: Some(sampled), single: false })
}

fn trace_id(text: &str) -> Option<(u64, u64)> {
    if text.len() == 32 {
        return Some((hex(text.get(..16)?)?, hex(text.get(16..)?)?));
    }
    Some((0, hex(text)?))
}

fn hex(text: &str) -> Option<u64> {
    if text.starts_with('+') {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

impl Ids {
    /// The trace id as Zipkin prints it.
    pub fn trace_text(&self) -> String {
        if self.high == 0 {
            format!("{:016x}", self.trace)
        } else {
            format!("{:016x}{:016x}", self.high, self.trace)
        }
    }

    /// Writes the context for the upstream: in the form in which it came.
    pub fn write(&self, fields: &mut Fields, single: bool, w3c: bool) {
        let (trace, id) = (self.trace_text(), format!("{:016x}", self.id));
        let sampled = u8::from(self.sampled);
        if single {
            let parent = self.parent.map(|parent| format!("-{parent:016x}")).unwrap_or_default();
            fields.set("b3", format_args!("{trace}-{id}-{sampled}{parent}"));
        } else {
            fields.set("x-b3-traceid", format_args!("{trace}"));
            fields.set("x-b3-spanid", format_args!("{id}"));
            if let Some(parent) = self.parent {
                fields.set("x-b3-parentspanid", format_args!("{parent:016x}"));
            }
            fields.set("x-b3-sampled", u32::from(sampled));
        }
        if w3c {
            fields
                .set("traceparent", format_args!("00-{:016x}{:016x}-{id}-0{sampled}", self.high, self.trace));
        }
    }
}
