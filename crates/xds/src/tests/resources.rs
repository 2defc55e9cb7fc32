//! Resources of a control plane: as JSON, as bytes, and as sent by a real Envoy.

use crate::envoy::config::cluster::v3::{Cluster, cluster};
use crate::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::envoy::service::discovery::v3::DiscoveryRequest;
use crate::{
    AnyError, Code, decode_any, decode_any_checked, dump_any, pack, read_discovery_response, read_message,
    resources,
};

const EDS: &str = r#"{"version_info": "2", "resources": [
    {"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "pet", "endpoints": []}]}"#;

#[test]
fn a_response_gives_its_resources() {
    let response = read_discovery_response("eds.json", EDS).unwrap().message;
    let assignments: Vec<ClusterLoadAssignment> = resources(&response).unwrap();
    assert_eq!(assignments[0].cluster_name, "pet");
    assert!(matches!(resources::<Cluster>(&response), Err(AnyError::Type { .. })));
    let json = dump_any(&response.resources[0]);
    assert_eq!(json["@type"], "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
}

#[test]
fn one_resource_reads_from_a_file_of_its_own() {
    let cluster: Cluster = read_message("pet.yaml", "name: pet\ntype: EDS\n").unwrap().message;
    assert_eq!(cluster.name, "pet");
}

#[test]
fn bytes_go_through_the_checks_of_a_file() {
    let lb_policy = cluster::LbPolicy::ClusterProvided.into();
    let refused = Cluster { name: "pet".into(), lb_policy, ..Cluster::default() };
    let Err(AnyError::Refused(found)) = decode_any_checked::<Cluster>(&pack(&refused)) else {
        panic!("accepted")
    };
    let text = "envoy.config.cluster.v3.Cluster/pet: lb_policy: value 6 is valid in Envoy, but petmesh does not implement it; \
                there is no cluster type that brings its own policy";
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
    let json: serde_json::Value = serde_json::from_str(&crate::render_json(&found)).unwrap();
    assert_eq!((&json[0]["line"], &json[0]["path"]), (&serde_json::Value::Null, &"lb_policy".into()));
    let nameless = pack(&Cluster::default());
    let Err(AnyError::Refused(found)) = decode_any_checked::<Cluster>(&nameless) else { panic!("accepted") };
    assert_eq!((found[0].code, found[0].path.as_deref()), (Code::MissingField, Some("name")));
    let mut unknown = pack(&Cluster { name: "pet".into(), ..Cluster::default() });
    unknown.value.extend([0xfa, 0x3e, 0x01, 0x61]);
    let Err(AnyError::Refused(found)) = decode_any_checked::<Cluster>(&unknown) else { panic!("accepted") };
    assert_eq!(found[0].message, "unknown field number 1007 in Cluster");
    assert!(decode_any::<Cluster>(&nameless).is_ok());
}

#[test]
fn damaged_bytes_are_an_error() {
    let mut any = pack(&Cluster { name: "pet".into(), ..Cluster::default() });
    for end in 0..any.value.len() {
        any.value.truncate(any.value.len() - end.min(1));
        let _ = decode_any_checked::<Cluster>(&any);
    }
    any.value = vec![0xff; 64];
    assert!(matches!(decode_any::<Cluster>(&any), Err(AnyError::Decode(_))));
}

/// Envoy sends its whole list of extensions as part of its node.
#[test]
fn a_request_of_a_real_envoy_reads() {
    let text = r#"{"version_info": "1", "node": {"id": "pet-1", "cluster": "pet", "user_agent_name": "envoy",
        "user_agent_build_version": {"version": {"major_number": 1}}, "extensions": [{"name": "envoy.tls", "category": "x"}],
        "client_features": ["a"]}, "resource_names": ["pet"],
        "type_url": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"}"#;
    let request: DiscoveryRequest = read_message("request", text).unwrap().message;
    assert_eq!(
        (request.resource_names.as_slice(), request.version_info.as_str()),
        (&["pet".to_owned()][..], "1")
    );
}
