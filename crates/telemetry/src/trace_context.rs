//! The trace context of a request, read and written: W3C `traceparent`, B3 in one header (`b3`) and in several (`x-b3-*`).
//! Pure.
//!
//! Sources: W3C Trace Context, level 1, section 3.2; openzipkin/b3-propagation. Works on strings, so that it serves any
//! kind of header map.

#[cfg(test)]
mod tests;

/// Where a request stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 64-bit B3 ids fill the lower half.
    pub trace_id: u128,
    /// The span of the caller.
    pub span_id: u64,
    /// The caller's own parent: B3 only.
    pub parent_span_id: Option<u64>,
    pub sampling: Sampling,
}

/// Whether spans of the trace are to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// The caller left it to us.
    Undecided,
    Drop,
    Keep,
    /// Keep, and let no collector thin it out (B3 only).
    Debug,
}

impl TraceContext {
    /// Reads `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`, lower case. A higher version may carry more fields at its end;
    /// version `ff` and ids of zeros are invalid.
    #[must_use]
    pub fn from_traceparent(value: &str) -> Option<Self> {
        let mut fields = value.split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let version = hex::<2>(version)?;
        if version == 0xff
            || (version == 0 && fields.next().is_some())
            || value.contains(|c: char| c.is_uppercase())
        {
            return None;
        }
        let sampled = hex::<2>(flags)? & 1 == 1;
        Some(Self {
            trace_id: nonzero(hex::<32>(trace)?)?,
            span_id: span_id(span)?,
            parent_span_id: None,
            sampling: if sampled { Sampling::Keep } else { Sampling::Drop },
        })
    }

    /// Reads `b3`: `{trace}-{span}`, then optionally `-{sampling}` and `-{parent}`. A value without ids (`0`) is `None`: it
    /// carries a decision but names no trace.
    #[must_use]
    pub fn from_b3(value: &str) -> Option<Self> {
        let mut fields = value.split('-');
        let (trace, span) = (fields.next()?, fields.next()?);
        let sampling = fields.next().map_or(Some(Sampling::Undecided), b3_sampling)?;
        let parent_span_id = match fields.next() {
            Some(parent) => Some(span_id(parent)?),
            None => None,
        };
        if fields.next().is_some() {
            return None;
        }
        Some(Self { trace_id: b3_trace_id(trace)?, span_id: span_id(span)?, parent_span_id, sampling })
    }

    /// Writes `traceparent`.
    #[must_use]
    pub fn to_traceparent(&self) -> String {
        let sampled = u8::from(self.sampling != Sampling::Drop);
        format!("00-{:032x}-{:016x}-{sampled:02x}", self.trace_id, self.span_id)
    }

    /// Writes `b3`.
    #[must_use]
    pub fn to_b3(&self) -> String {
        let ids = format!("{}-{:016x}", trace_id_text(self.trace_id), self.span_id);
        let decision = match self.sampling {
            // The parent follows a decision only.
            Sampling::Undecided => return ids,
            Sampling::Drop => "0",
            Sampling::Keep => "1",
            Sampling::Debug => "d",
        };
        match self.parent_span_id {
            Some(parent) => format!("{ids}-{decision}-{parent:016x}"),
            None => format!("{ids}-{decision}"),
        }
    }

    /// Writes the `x-b3-*` headers: name and value.
    #[must_use]
    pub fn to_b3_multi(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("x-b3-traceid", trace_id_text(self.trace_id)),
            ("x-b3-spanid", format!("{:016x}", self.span_id)),
        ];
        if let Some(parent) = self.parent_span_id {
            headers.push(("x-b3-parentspanid", format!("{parent:016x}")));
        }
        match self.sampling {
            Sampling::Undecided => {}
            Sampling::Drop => headers.push(("x-b3-sampled", "0".to_owned())),
            Sampling::Keep => headers.push(("x-b3-sampled", "1".to_owned())),
            Sampling::Debug => headers.push(("x-b3-flags", "1".to_owned())),
        }
        headers
    }

    /// Reads the `x-b3-*` headers; `get` gives the value of a header by its lower-case name. Ids
    /// without their leading zeros are accepted, as Envoy does.
    #[must_use]
    pub fn from_b3_multi<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let parent_span_id = match get("x-b3-parentspanid").filter(|parent| !parent.is_empty()) {
            Some(parent) => Some(short_id(parent)?).filter(|parent| *parent != 0),
            None => None,
        };
        let trace = get("x-b3-traceid")?;
        Some(Self {
            trace_id: nonzero(hex::<32>(trace).or_else(|| short_id(trace).map(u128::from))?)?,
            span_id: short_id(get("x-b3-spanid")?).filter(|span| *span != 0)?,
            parent_span_id,
            sampling: b3_multi_sampling(&get)?,
        })
    }
}

impl Sampling {
    /// The decision in B3 headers that name no trace (`b3: 0`, or `x-b3-sampled` alone); `get` as above.
    #[must_use]
    pub fn from_b3<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let single = get("b3").and_then(b3_sampling);
        single.or_else(|| b3_multi_sampling(&get)).unwrap_or(Sampling::Undecided)
    }
}

/// As B3 does: 64-bit ids stay as short as they came.
#[must_use]
pub fn trace_id_text(id: u128) -> String {
    if u64::try_from(id).is_ok() { format!("{id:016x}") } else { format!("{id:032x}") }
}

fn b3_multi_sampling<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Option<Sampling> {
    match (get("x-b3-flags"), get("x-b3-sampled")) {
        (Some("1"), _) => Some(Sampling::Debug),
        (_, Some(sampled)) => b3_sampling(sampled),
        (_, None) => Some(Sampling::Undecided),
    }
}

/// `true` and `false` come from old clients; the specification asks to accept them.
fn b3_sampling(value: &str) -> Option<Sampling> {
    match value {
        "0" | "false" => Some(Sampling::Drop),
        "1" | "true" => Some(Sampling::Keep),
        "d" => Some(Sampling::Debug),
        _ => None,
    }
}

fn b3_trace_id(value: &str) -> Option<u128> {
    nonzero(hex::<32>(value).or_else(|| hex::<16>(value))?)
}

/// An id of at most 64 bits.
fn short_id(value: &str) -> Option<u64> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u64::from_str_radix(value, 16).ok() } else { None }
}

fn span_id(value: &str) -> Option<u64> {
    u64::try_from(nonzero(hex::<16>(value)?)?).ok()
}

fn nonzero(id: u128) -> Option<u128> {
    (id != 0).then_some(id)
}

/// Exactly `N` hexadecimal digits, which `from_str_radix` alone does not ask for (it takes a sign).
fn hex<const N: usize>(value: &str) -> Option<u128> {
    let digits = value.len() == N && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u128::from_str_radix(value, 16).ok() } else { None }
}
