//! Each format read and written.

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
    assert_eq!(read(&format!("01-{ids}-01-more")), context(None, Sampling::Keep), "a later version may add");
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
    for bad in
        ["0", "", "1", &format!("{ids}-x"), &format!("{ids}-1-05e3"), &format!("{ids}-1-05e3ac9a4f6e3b90-1")]
    {
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
            let get =
                |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
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
