//! Who is traced, and what context goes on.

use super::*;

fn fields(pairs: &[(&'static str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in pairs {
        fields.set(*name, FieldValue::new(value.as_bytes()).unwrap());
    }
    fields
}

#[test]
fn a_context_goes_on_in_the_form_in_which_it_came() {
    for (given, goes_on) in [
        (
            "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1",
            "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1",
        ),
        (
            "463ac35c9f6413ad-a2fb4a1d1a96d312-d-0000000000000001",
            "463ac35c9f6413ad-a2fb4a1d1a96d312-1-0000000000000001",
        ),
    ] {
        let incoming = read(&fields(&[("b3", given)]), false).unwrap();
        let mut sent = Fields::default();
        let context = TraceContext { sampling: Decision::Keep, ..incoming.context.unwrap() };
        assert_eq!(incoming.sampled, Some(true));
        write(&context, &mut sent, incoming.single, true);
        assert_eq!(sent.get("b3"), Some(goes_on.as_bytes()));
        assert!(sent.get("x-b3-traceid").is_none());
    }
}

#[test]
fn a_broken_context_differs_from_none() {
    for broken in
        ["2", "", "463ac35c9f6413ad", "463ac35c9f6413ad-a2fb4a1d1a96d312-2", "463ac35c9f6413ad-a2fb-1"]
    {
        assert_eq!(read(&fields(&[("b3", broken)]), false), None, "{broken}");
    }
    let several = [("x-b3-traceid", "zz"), ("x-b3-spanid", "1")];
    assert_eq!(read(&fields(&several), false), None);
    let none = read(&fields(&[("x-b3-sampled", "0")]), false).unwrap();
    assert_eq!((none.context, none.sampled), (None, Some(false)));
    let w3c = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    assert_eq!(read(&fields(&w3c), false).unwrap().context, None);
    let context = read(&fields(&w3c), true).unwrap().context.unwrap();
    assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
}
