//! What readers see of a writer's work.

mod fail_static;

use super::*;
use crate::translate::Family;

fn writer() -> (Writer, Reader) {
    Writer::new(Rules { envoy_port: 10000, family: Family::Auto }, Duration::from_secs(300))
}

fn slice(service: &str, name: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| serde_json::json!({ "addresses": [address] })).collect();
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "port": 80 }],
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn key(name: &str) -> SliceKey {
    SliceKey { namespace: "shop".into(), name: name.into() }
}

fn whole(slices: &[EndpointSlice]) -> BTreeMap<SliceKey, EndpointSlice> {
    slices.iter().map(|slice| (slice.key(), slice.clone())).collect()
}

fn addresses(reader: &Reader, cluster: &str) -> Option<Vec<String>> {
    let catalog = reader.borrow().clone().expect("synced");
    Some(catalog.get(cluster)?.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect())
}

#[test]
fn nothing_is_known_before_the_first_list_even_if_it_is_empty() {
    let (mut writer, reader) = writer();
    assert!(reader.borrow().is_none());
    writer.replace(BTreeMap::new(), Instant::now());
    assert_eq!(reader.borrow().as_ref().map(|catalog| catalog.services()), Some(0));
}

#[test]
fn an_identical_list_wakes_nobody() {
    let (mut writer, mut reader) = writer();
    let all = whole(&[slice("pet", "pet-1", &["10.0.0.1"]), slice("shop", "shop-1", &[])]);
    writer.replace(all.clone(), Instant::now());
    reader.mark_unchanged();
    writer.replace(all, Instant::now());
    assert!(!reader.has_changed().unwrap());
}

#[test]
fn a_change_that_changes_no_answer_wakes_nobody() {
    let (mut writer, mut reader) = writer();
    writer.replace(whole(&[slice("pet", "pet-1", &["10.0.0.1", "10.0.0.2"])]), Instant::now());
    reader.mark_unchanged();
    let mut other = slice("pet", "pet-1", &["10.0.0.2", "10.0.0.1"]);
    other.metadata.resource_version = "9".into();
    writer.put(other);
    writer.publish(Instant::now());
    assert!(!reader.has_changed().unwrap());
}

#[test]
fn a_list_forgets_what_it_does_not_name() {
    let (mut writer, reader) = writer();
    let (pet, shop) = (slice("pet", "pet-1", &["10.0.0.1"]), slice("shop", "shop-1", &["10.0.0.2"]));
    writer.replace(whole(&[pet, shop.clone()]), Instant::now());
    writer.replace(whole(&[shop]), Instant::now());
    assert_eq!(addresses(&reader, "pet.shop"), None);
    assert_eq!(addresses(&reader, "shop.shop").unwrap(), ["10.0.0.2"]);
}

#[test]
fn deleting_one_slice_keeps_what_another_still_holds() {
    let (mut writer, reader) = writer();
    writer.replace(
        whole(&[slice("pet", "a", &["10.0.0.1"]), slice("pet", "b", &["10.0.0.1", "10.0.0.2"])]),
        Instant::now(),
    );
    writer.remove(&key("a"));
    writer.publish(Instant::now());
    assert_eq!(addresses(&reader, "pet.shop").unwrap(), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn a_slice_may_change_its_service() {
    let (mut writer, reader) = writer();
    writer.replace(whole(&[slice("pet", "a", &["10.0.0.1"])]), Instant::now());
    writer.put(slice("shop", "a", &["10.0.0.1"]));
    writer.publish(Instant::now());
    assert_eq!(addresses(&reader, "pet.shop"), None);
    assert_eq!(addresses(&reader, "shop.shop").unwrap(), ["10.0.0.1"]);
}

#[test]
fn unchanged_clusters_are_shared_between_catalogs() {
    let (mut writer, reader) = writer();
    writer.replace(
        whole(&[slice("pet", "a", &["10.0.0.1"]), slice("shop", "b", &["10.0.0.2"])]),
        Instant::now(),
    );
    let before = reader.borrow().clone().unwrap();
    writer.put(slice("shop", "b", &["10.0.0.3"]));
    writer.publish(Instant::now());
    let after = reader.borrow().clone().unwrap();
    let of = |catalog: &Catalog, name: &str| Arc::clone(catalog.get(name).unwrap());
    assert!(Arc::ptr_eq(&of(&before, "pet.shop"), &of(&after, "pet.shop")));
    assert_ne!(of(&before, "shop.shop").version, of(&after, "shop.shop").version);
}
