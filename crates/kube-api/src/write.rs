//! Create, update, patch and delete.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::answer::{self, Body};
use crate::patch::Patch;
use crate::protobuf;
use crate::quota;
use crate::resources::{self, Resource, text};
use crate::route::Target;
use crate::selector::Selector;
use crate::settle::{self, Settle};
use crate::status::{Cause, Status};
use crate::store::{Key, Object, Store, object};
use crate::table::{Format, Include, table};
use crate::time;

/// What every write needs to know.
pub struct Write<'a> {
    pub(crate) store: &'a Store,
    pub(crate) resource: &'static Resource,
    pub(crate) target: &'a Target,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    pub(crate) dry_run: bool,
    pub(crate) format: Format,
    pub(crate) settle: Settle,
}

impl Write<'_> {
    /// POST to the collection.
    ///
    /// # Errors
    /// 409 if the object exists, 404 if its namespace does not, 400, 415 and 422 for what cannot be stored.
    pub fn create(&self) -> Result<Response<Body>, Status> {
        let mut object = self.read_object()?;
        let namespace = self.target.namespace.clone().unwrap_or_default();
        if self.resource.namespaced {
            self.same("namespace", text(&object, "/metadata/namespace"), &namespace)?;
            object["metadata"]["namespace"] = namespace.as_str().into();
            self.need_namespace(&namespace)?;
        }
        let (namespace, name) = object::place(self.resource, &object)?;
        if self.resource.has_status
            && let Some(object) = object.as_object_mut()
        {
            object.remove("status"); // As on every write but those to /status.
        }
        let key = Key::new(self.resource, &namespace, &name);
        quota::admit(self.store, self.resource, &namespace, &name, &object)?;
        let created = self.store.change(&key, self.dry_run, &mut |old| match old {
            Some(_) => Err(Status::already_exists(self.resource, &name)),
            None => Ok(Some(object.clone())),
        })?;
        Ok(self.answer(StatusCode::CREATED, &self.settled(created)))
    }

    /// PUT of an object.
    ///
    /// # Errors
    /// 404 if it is absent, 409 for an old resourceVersion.
    pub fn update(&self, name: &str) -> Result<Response<Body>, Status> {
        let object = self.read_object()?;
        self.same("name", text(&object, "/metadata/name"), name)?;
        let updated = self.store.change(&self.key(name), self.dry_run, &mut |old| {
            let old = old.ok_or_else(|| Status::not_found(self.resource, name))?;
            self.check_version(&object, old, name)?;
            Ok(Some(self.own_part(object.clone(), old)))
        })?;
        self.store.finish_namespace(&updated.value);
        Ok(self.answer(StatusCode::OK, &self.settled(updated)))
    }

    /// PATCH of an object; a server-side apply creates it.
    ///
    /// # Errors
    /// 404 if it is absent, 409 for an old resourceVersion in the patch, 415 and 422 for a patch that does not fit.
    pub fn patch(&self, name: &str) -> Result<Response<Body>, Status> {
        let patch = Patch::parse(self.content_type(), self.body)?;
        let mut code = StatusCode::OK;
        if let (Patch::Apply(_), Some(namespace)) = (&patch, &self.target.namespace)
            && self.resource.namespaced
            && self.store.object(&self.key(name)).is_none()
        {
            self.need_namespace(namespace)?;
        }
        if let (Patch::Apply(object), None) = (&patch, self.store.object(&self.key(name))) {
            let namespace = self.target.namespace.as_deref().unwrap_or_default();
            quota::admit(self.store, self.resource, namespace, name, object)?;
        }
        let patched = self.store.change(&self.key(name), self.dry_run, &mut |old| {
            let mut object = match (old, &patch) {
                (Some(old), _) => old.value.clone(),
                (None, Patch::Apply(_)) => {
                    code = StatusCode::CREATED;
                    json!({})
                }
                (None, _) => return Err(Status::not_found(self.resource, name)),
            };
            patch.apply(&mut object)?;
            if let (None, true, Some(object)) = (old, self.resource.has_status, object.as_object_mut()) {
                object.remove("status");
            }
            self.same("name", text(&object, "/metadata/name"), name)?;
            if let Some(old) = old {
                self.check_version(&object, old, name)?;
                object = self.own_part(object, old);
            }
            Ok(Some(object))
        })?;
        self.store.finish_namespace(&patched.value);
        Ok(self.answer(code, &self.settled(patched)))
    }

    /// DELETE of an object: at once, or when its finalizers are gone.
    ///
    /// # Errors
    /// 404 if it is absent, 409 if a precondition fails.
    pub fn delete(&self, name: &str) -> Result<Response<Body>, Status> {
        let options = protobuf::read(self.content_type(), self.body).unwrap_or_default();
        if self.resource.kind == "Namespace" {
            let namespace = self.store.terminate_namespace(name, self.dry_run)?;
            return Ok(self.answer(StatusCode::OK, &namespace));
        }
        let deleted = self.remove(name, &options)?;
        if !self.dry_run && options["propagationPolicy"] != "Orphan" {
            self.store.delete_owned_by(&deleted.value);
        }
        if self.resource.returns_deleted {
            return Ok(self.answer(StatusCode::OK, &deleted));
        }
        let receipt = Status::deleted(self.resource, name, text(&deleted.value, "/metadata/uid"));
        Ok(answer::status(&receipt))
    }

    /// DELETE of what a selector matches.
    ///
    /// # Errors
    /// None that `delete` has not; an object that goes meanwhile is not missed.
    pub fn delete_collection(&self, selector: &Selector) -> Result<Response<Body>, Status> {
        let namespace = self.target.namespace.as_deref();
        let Some((objects, _)) = self.store.snapshot(self.resource, namespace, None) else {
            return Err(Status::no_resource());
        };
        let mut items = Vec::new();
        for object in objects.iter().filter(|object| selector.matches(&object.value)) {
            let name = text(&object.value, "/metadata/name");
            let key = Key::new(self.resource, text(&object.value, "/metadata/namespace"), name);
            if self
                .store
                .change(&key, self.dry_run, &mut |old| self.deletion(old, name, &Value::Null))
                .is_ok()
            {
                items.push(object.value.clone());
            }
        }
        let list = json!({"kind": format!("{}List", self.resource.kind), "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.store.resource_version().to_string()}, "items": items});
        Ok(answer::value(StatusCode::OK, &list))
    }

    fn remove(&self, name: &str, options: &Value) -> Result<Arc<Object>, Status> {
        self.store.change(&self.key(name), self.dry_run, &mut |old| self.deletion(old, name, options))
    }

    // What a DELETE makes of an object: nothing, or itself with a deletionTimestamp while finalizers hold it.
    fn deletion(&self, old: Option<&Object>, name: &str, options: &Value) -> Result<Option<Value>, Status> {
        let old = old.ok_or_else(|| Status::not_found(self.resource, name))?;
        let wanted = &options["preconditions"];
        for (field, pointer) in [("uid", "/metadata/uid"), ("resourceVersion", "/metadata/resourceVersion")] {
            if wanted[field].as_str().is_some_and(|wanted| wanted != text(&old.value, pointer)) {
                return Err(Status::conflict(self.resource, name));
            }
        }
        if resources::items(&old.value, "/metadata/finalizers").is_empty() {
            return Ok(None);
        }
        let mut held = old.value.clone();
        if text(&held, "/metadata/deletionTimestamp").is_empty() {
            held["metadata"]["deletionTimestamp"] = time::now().into();
            held["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        }
        Ok(Some(held))
    }

    fn read_object(&self) -> Result<Value, Status> {
        let mut object = protobuf::read(self.content_type(), self.body)?;
        let (version, kind) = (self.resource.api_version(), self.resource.kind);
        let given = (text(&object, "/apiVersion"), text(&object, "/kind"));
        let fits = |given: &str, wanted: &str| given.is_empty() || given == wanted;
        if !object.is_object() || !fits(given.0, &version) || !fits(given.1, kind) {
            let message = format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: the object has apiVersion \"{}\" and kind \"{}\"",
                self.resource.version, given.0, given.1
            );
            return Err(Status::bad_request(message));
        }
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        Ok(object)
    }

    fn same(&self, field: &str, given: &str, wanted: &str) -> Result<(), Status> {
        if given.is_empty() || given == wanted {
            return Ok(());
        }
        Err(Status::bad_request(format!(
            "the {field} of the provided object does not match the {field} sent on the request: \"{given}\" is not \
             \"{wanted}\""
        )))
    }

    /// The object as it is stored.
    ///
    /// # Errors
    /// 404 if it is absent.
    pub fn stored(&self, name: &str) -> Result<Arc<Object>, Status> {
        self.store.object(&self.key(name)).ok_or_else(|| Status::not_found(self.resource, name))
    }

    /// Makes a new object of the present one, for a subresource that is not a part of it.
    ///
    /// # Errors
    /// 404 if it is absent, and what `make` refuses.
    pub fn modify(
        &self,
        name: &str,
        make: &mut dyn FnMut(&Value) -> Result<Value, Status>,
    ) -> Result<Arc<Object>, Status> {
        let changed = self.store.change(&self.key(name), self.dry_run, &mut |old| {
            let old = old.ok_or_else(|| Status::not_found(self.resource, name))?;
            Ok(Some(make(&old.value)?))
        })?;
        Ok(self.settled(changed))
    }

    fn check_version(&self, object: &Value, old: &Object, name: &str) -> Result<(), Status> {
        let given = text(object, "/metadata/resourceVersion");
        let uid = text(object, "/metadata/uid");
        let stale = !given.is_empty() && given != old.revision.to_string();
        if stale || (!uid.is_empty() && uid != text(&old.value, "/metadata/uid")) {
            return Err(Status::conflict(self.resource, name));
        }
        Ok(())
    }

    fn need_namespace(&self, name: &str) -> Result<(), Status> {
        match resources::by_name("namespaces") {
            Some(namespaces) => match self.store.object(&Key::new(namespaces, "", name)) {
                None => Err(Status::not_found(namespaces, name)),
                Some(found) if !text(&found.value, "/metadata/deletionTimestamp").is_empty() => {
                    Err(self.terminating(name))
                }
                Some(_) => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn terminating(&self, namespace: &str) -> Status {
        let object: Value = serde_json::from_slice(self.body).unwrap_or_default();
        let name = self.target.name.as_deref().unwrap_or_else(|| text(&object, "/metadata/name"));
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::refused(self.resource, name, &why);
        if let Some(details) = status.details.as_mut() {
            let message = format!("namespace {namespace} is being terminated");
            let field = "metadata.namespace";
            details.causes.push(Cause { reason: "NamespaceTerminating", message, field });
        }
        status
    }

    // The object after what the controllers of a real cluster would do about it, if that is wanted.
    fn settled(&self, object: Arc<Object>) -> Arc<Object> {
        if !self.dry_run && self.target.subresource.as_deref() != Some("status") {
            settle::settle(self.store, self.resource, &object, self.settle);
        }
        object
    }

    // A write to /status changes nothing else, and no other write changes the status.
    fn own_part(&self, mut new: Value, old: &Object) -> Value {
        if !self.resource.has_status {
            return new;
        }
        if self.target.subresource.is_some() {
            let mut whole = old.value.clone();
            whole["status"] = new["status"].take();
            return whole;
        }
        new["status"] = old.value["status"].clone();
        new
    }

    fn key(&self, name: &str) -> Key {
        Key::new(self.resource, self.target.namespace.as_deref().unwrap_or_default(), name)
    }

    pub(crate) fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn answer(&self, code: StatusCode, object: &Object) -> Response<Body> {
        shown(self.resource, self.format, code, object)
    }
}

/// One object in the form that was asked for.
pub fn shown(resource: &Resource, format: Format, code: StatusCode, object: &Object) -> Response<Body> {
    match format {
        Format::Json => answer::json(code, &object.json),
        Format::Metadata => answer::value(code, &crate::table::metadata(&object.value)),
        Format::Table(include) => {
            let include = if include == Include::Nothing { Include::Metadata } else { include };
            let mut shown = table(resource, std::iter::once(&object.value), include, true);
            shown["metadata"] = json!({"resourceVersion": object.revision.to_string()});
            answer::value(code, &shown)
        }
    }
}
