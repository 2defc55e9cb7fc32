//! Every extension of Envoy 1.40 is implemented or said to be missing, and none is taken for a misspelt one.

use crate::{Code, extensions, read_bootstrap, schema};

/// A file with an extension; names of filters are free, so the type decides.
fn file(full_name: &str) -> String {
    format!(
        "static_resources: {{clusters: [{{name: c, typed_extension_protocol_options: \
         {{x: {{\"@type\": type.googleapis.com/{full_name}}}}}}}]}}"
    )
}

#[test]
fn no_extension_of_envoy_is_unknown() {
    let mut missing = 0;
    for full_name in extensions::types() {
        let found = read_bootstrap("envoy.yaml", &file(full_name)).err().unwrap_or_default();
        let codes: Vec<_> = found.iter().map(|found| found.code).collect();
        assert!(!codes.contains(&Code::UnknownType), "{full_name}: {found:?}");
        let ours = schema::message(full_name).is_some();
        assert_eq!(codes == [Code::NotImplemented], !ours, "{full_name}: {found:?}");
        missing += usize::from(!ours);
    }
    assert!(missing > 300, "{missing}");
}

#[test]
fn a_misspelt_extension_is_unknown_and_the_nearest_is_named() {
    for (name, near) in [
        (
            "envoy.extensions.filters.http.csrf.v3.CsrfPolicyy",
            "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
        ),
        ("envoy.extensions.filters.http.router.v3.router", "envoy.extensions.filters.http.router.v3.Router"),
    ] {
        let found = read_bootstrap("envoy.yaml", &file(name)).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].code, Code::UnknownType);
        assert_eq!(
            found[0].suggestion.as_deref(),
            Some(&*format!("did you mean `type.googleapis.com/{near}`?"))
        );
    }
    let found = read_bootstrap("envoy.yaml", &file("envoy.extensions.filters.http.golang.v3alpha.Config"))
        .unwrap_err();
    assert_eq!(found[0].code, Code::UnknownType, "{found:?}");
}
