//! SelfSubjectAccessReview: `kubectl auth can-i`, answered from the rules of the token that asks.

use http::{Response, StatusCode};
use serde_json::json;

use crate::answer::{self, Body};
use crate::auth::{self, User};
use crate::protobuf;
use crate::resources::text;
use crate::route::{Route, Target};
use crate::status::Status;

/// Answers a review with itself and its `status`.
///
/// # Errors
/// 400 and 415 for a body that cannot be read, 400 for a review that asks for nothing.
pub fn answer(user: &User, content_type: &str, body: &[u8]) -> Result<Response<Body>, Status> {
    let mut review = protobuf::read(content_type, body)?;
    let spec = &review["spec"];
    let (route, verb) = if spec["nonResourceAttributes"].is_object() {
        let asked = &spec["nonResourceAttributes"];
        (Route::Path(text(asked, "/path").to_owned()), text(asked, "/verb"))
    } else if spec["resourceAttributes"].is_object() {
        let asked = &spec["resourceAttributes"];
        let own = |pointer: &str| text(asked, pointer).to_owned();
        let some = |pointer: &str| Some(own(pointer)).filter(|text| !text.is_empty());
        let target = Target {
            group: own("/group"),
            version: own("/version"),
            namespace: some("/namespace"),
            resource: own("/resource"),
            name: some("/name"),
            subresource: some("/subresource"),
        };
        (Route::Resource(target), text(asked, "/verb"))
    } else {
        return Err(Status::bad_request(
            "spec names neither resourceAttributes nor nonResourceAttributes; send one of them",
        ));
    };
    let status = match auth::authorize(user, &route, verb) {
        Ok(()) => json!({"allowed": true}),
        Err(_) => json!({"allowed": false}),
    };
    review["kind"] = "SelfSubjectAccessReview".into();
    review["apiVersion"] = "authorization.k8s.io/v1".into();
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = status;
    Ok(answer::value(StatusCode::CREATED, &review))
}
