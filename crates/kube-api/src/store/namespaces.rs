//! The end of a namespace, as a real cluster's namespace and garbage collectors bring it about, only at once:
//! `Terminating`, its objects go, and when the last is gone (finalizers may hold some) the namespace goes too.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Key, Object, Store};
use crate::resources::{self, RESOURCES, Resource, items, text};
use crate::status::Status;
use crate::time;

// What a real server refuses to delete.
const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

impl Store {
    /// Keeps namespaces that are being deleted in the phase `Terminating` (`true`), as a cluster does whose namespace
    /// controller waits for something; `false` lets them go.
    pub fn hold_namespaces(&self, held: bool) {
        self.lock().namespaces_held = held;
        for namespace in self.list("namespaces", None) {
            self.finish(text(&namespace, "/metadata/name"));
        }
    }

    /// Begins the deletion of a namespace; returns it as it is then, or was last.
    pub(crate) fn terminate_namespace(&self, name: &str, dry_run: bool) -> Result<Arc<Object>, Status> {
        let namespaces = resources::by_name("namespaces").ok_or_else(Status::no_resource)?;
        if IMMORTAL.contains(&name) {
            return Err(Status::refused(namespaces, name, "this namespace may not be deleted"));
        }
        let ending = self.change(&Key::new(namespaces, "", name), dry_run, &mut |old| {
            let mut value = old.ok_or_else(|| Status::not_found(namespaces, name))?.value.clone();
            if text(&value, "/metadata/deletionTimestamp").is_empty() {
                value["metadata"]["deletionTimestamp"] = time::now().into();
                value["status"] = json!({"phase": "Terminating"});
            }
            Ok(Some(value))
        })?;
        if dry_run {
            return Ok(ending);
        }
        for resource in RESOURCES.iter().filter(|resource| resource.namespaced) {
            for (key, _) in self.all(resource, Some(name)) {
                self.delete_or_mark(&key);
            }
        }
        self.finish(name);
        Ok(ending)
    }

    /// Removes the namespace of this object (or this namespace) if it was only waiting for it.
    pub(crate) fn finish_namespace(&self, object: &Value) {
        match text(object, "/metadata/namespace") {
            "" if text(object, "/kind") == "Namespace" => self.finish(text(object, "/metadata/name")),
            namespace => self.finish(namespace),
        }
    }

    /// Deletes what this object owns (by uid), and what that owns, and ends its namespace if that waited for it.
    pub(crate) fn delete_owned_by(&self, owner: &Value) {
        let namespace = Some(text(owner, "/metadata/namespace")).filter(|namespace| !namespace.is_empty());
        let uid = text(owner, "/metadata/uid");
        for resource in RESOURCES {
            for (key, object) in self.all(resource, namespace) {
                let owners = items(&object.value, "/metadata/ownerReferences");
                if owners.iter().any(|one| text(one, "/uid") == uid) {
                    self.delete_or_mark(&key);
                    self.delete_owned_by(&object.value);
                }
            }
        }
        self.finish_namespace(owner);
    }

    // Deletes an object unless a finalizer holds it, which is then left with a deletionTimestamp.
    fn delete_or_mark(&self, key: &Key) {
        // One that is gone already needs nothing more.
        let _ = self.change(key, false, &mut |old| {
            let old = old.ok_or_else(|| Status::not_found(key.resource(), &key.name))?;
            if items(&old.value, "/metadata/finalizers").is_empty() {
                return Ok(None);
            }
            let mut held = old.value.clone();
            if text(&held, "/metadata/deletionTimestamp").is_empty() {
                held["metadata"]["deletionTimestamp"] = time::now().into();
                held["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            }
            Ok(Some(held))
        });
    }

    // Removes a namespace that is ending, once nothing is in it and nothing holds it.
    fn finish(&self, name: &str) {
        let Some(namespaces) = resources::by_name("namespaces") else { return };
        let key = Key::new(namespaces, "", name);
        let Some(namespace) = self.object(&key) else { return };
        let ending = !text(&namespace.value, "/metadata/deletionTimestamp").is_empty();
        if !ending || self.lock().namespaces_held {
            return;
        }
        let filled = RESOURCES
            .iter()
            .any(|resource| resource.namespaced && !self.all(resource, Some(name)).is_empty());
        if !filled && items(&namespace.value, "/metadata/finalizers").is_empty() {
            // Another request may have removed it meanwhile.
            let _ = self.change(&key, false, &mut |_| Ok(None));
        }
    }

    fn all(&self, resource: &'static Resource, namespace: Option<&str>) -> Vec<(Key, Arc<Object>)> {
        let state = self.lock();
        super::object::range(&state.objects, resource, namespace)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }
}
