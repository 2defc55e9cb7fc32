//! The trace context of a request, read and written: W3C `traceparent`, B3 in one header (`b3`) and in several (`x-b3-*`).
//! Pure.
//!
//! Sources: W3C Trace Context, level 1, section 3.2; openzipkin/b3-propagation. Works on strings, so that it serves any
//! kind of header map. Called by `propagation`; calls nothing.

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

    /// Reads the `x-b3-*` headers; `get` answers with the value of a header by its lower-case name.
    #[must_use]
    pub fn from_b3_multi<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let parent_span_id = match get("x-b3-parentspanid") {
            Some(parent) => Some(span_id(parent)?),
            None => None,
        };
        Some(Self {
            trace_id: b3_trace_id(get("x-b3-traceid")?)?,
            span_id: span_id(get("x-b3-spanid")?)?,
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
pub(crate) fn trace_id_text(id: u128) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7;
    const SPAN: u64 = 0xe457_b5a2_e4d8_6bd1;
    const PARENT: u64 = 0x05e3_ac9a_4f6e_3b90;

    fn context(parent_span_id: Option<u64>, sampling: Sampling) -> Option<TraceContext> {
        Some(TraceContext { trace_id: TRACE, span_id: SPAN, parent_span_id, sampling })
    }

    #[test]
    fn traceparent() {
        let read = TraceContext::from_traceparent;
        let ids = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
        assert_eq!(read(&format!("00-{ids}-01")), context(None, Sampling::Keep));
        assert_eq!(read(&format!("00-{ids}-00")), context(None, Sampling::Drop));
        assert_eq!(
            read(&format!("01-{ids}-01-more")),
            context(None, Sampling::Keep),
            "a later version may add"
        );
        for bad in [
            format!("00-{ids}-01-more"),
            format!("ff-{ids}-01"),
            format!("00-{}-01", ids.to_uppercase()),
            format!("00-{ids}"),
            format!("00-{ids}-1"),
            format!("00-{}-e457b5a2e4d86bd1-01", "0".repeat(32)),
            format!("00-80f198ee56343ba864fe8b2a57d3eff7-{}-01", "0".repeat(16)),
            "00-+0f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn b3_in_one_header() {
        let read = TraceContext::from_b3;
        let ids = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
        assert_eq!(read(ids), context(None, Sampling::Undecided));
        assert_eq!(read(&format!("{ids}-1-05e3ac9a4f6e3b90")), context(Some(PARENT), Sampling::Keep));
        assert_eq!(read(&format!("{ids}-d")), context(None, Sampling::Debug));
        let short = read("64fe8b2a57d3eff7-e457b5a2e4d86bd1-0").map(|context| context.trace_id);
        assert_eq!(short, Some(0x64fe_8b2a_57d3_eff7));
        for bad in [
            "0",
            "",
            "1",
            &format!("{ids}-x"),
            &format!("{ids}-1-05e3"),
            &format!("{ids}-1-05e3ac9a4f6e3b90-1"),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for sampling in [Sampling::Keep, Sampling::Drop, Sampling::Debug] {
            for (trace_id, parent_span_id) in [(TRACE, Some(PARENT)), (7, None)] {
                let context = TraceContext { trace_id, span_id: SPAN, parent_span_id, sampling };
                assert_eq!(TraceContext::from_b3(&context.to_b3()), Some(context));
                let headers = context.to_b3_multi();
                let get = |name: &str| {
                    headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
                };
                assert_eq!(TraceContext::from_b3_multi(get), Some(context));
            }
        }
        let keep = context(None, Sampling::Keep).expect("a context");
        assert_eq!(TraceContext::from_traceparent(&keep.to_traceparent()), Some(keep));
        let undecided = context(None, Sampling::Undecided).expect("a context");
        assert_eq!(TraceContext::from_b3(&undecided.to_b3()), Some(undecided));
        let short = TraceContext { trace_id: 7, ..keep };
        assert_eq!(short.to_b3(), "0000000000000007-e457b5a2e4d86bd1-1");
    }

    #[test]
    fn a_decision_may_come_without_a_trace() {
        let of = |name: &'static str, value: &'static str| {
            Sampling::from_b3(|wanted| (wanted == name).then_some(value))
        };
        assert_eq!(of("b3", "0"), Sampling::Drop);
        assert_eq!(of("b3", "d"), Sampling::Debug);
        assert_eq!(of("x-b3-sampled", "0"), Sampling::Drop);
        assert_eq!(of("x-b3-flags", "1"), Sampling::Debug);
        assert_eq!(of("x-b3-sampled", "perhaps"), Sampling::Undecided);
        assert_eq!(of("cookie", "0"), Sampling::Undecided);
    }

    #[test]
    fn b3_in_several_headers() {
        let read = |headers: &[(&str, &'static str)]| {
            TraceContext::from_b3_multi(|name| {
                headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
            })
        };
        let trace = ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7");
        let span = ("x-b3-spanid", "e457b5a2e4d86bd1");
        assert_eq!(read(&[trace, span]), context(None, Sampling::Undecided));
        assert_eq!(read(&[trace, span, ("x-b3-sampled", "true")]), context(None, Sampling::Keep));
        assert_eq!(read(&[trace, span, ("x-b3-flags", "1")]), context(None, Sampling::Debug));
        let parent = ("x-b3-parentspanid", "05e3ac9a4f6e3b90");
        assert_eq!(read(&[trace, span, parent]), context(Some(PARENT), Sampling::Undecided));
        assert_eq!(read(&[trace]), None);
        assert_eq!(read(&[trace, ("x-b3-spanid", "xyz")]), None);
    }
}
