//! One request: who asks, may they, what for, and the answer.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::answer::{self, Body};
use crate::auth::{self, User};
use crate::config::Config;
use crate::control;
use crate::discovery;
use crate::faults::Faults;
use crate::list;
use crate::options::Options;
use crate::resources::{self, RESOURCES, Resource};
use crate::reviews;
use crate::route::{self, Query, Route, Target};
use crate::scale;
use crate::status::{Details, Status};
use crate::store::{Key, Store};
use crate::table::Format;
use crate::watch::Watch;
use crate::write::{self, Write};

/// What all requests share.
#[derive(Debug)]
pub struct Api {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) counts: watch::Sender<Counts>,
}

/// How many requests for resources there were, answered or refused, of those with a valid token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gets of single objects.
    pub gets: u64,
    /// Lists, each page for itself.
    pub lists: u64,
    /// Watches begun.
    pub watches: u64,
    /// Everything that changes something.
    pub writes: u64,
}

impl Api {
    /// Answers a request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let delay = self.faults.current_delay();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let (parts, body) = request.into_parts();
        let tokens = self.faults.tokens();
        let user = auth::authenticate(&parts.headers, &tokens, self.config.anonymous);
        let known = user.is_ok();
        let mut response = match user {
            Ok(user) => {
                let answered = self.dispatch(&user, &parts, body).await;
                answered.unwrap_or_else(|status| answer::status(&status))
            }
            Err(status) => answer::status(&status),
        };
        // Only requests that got as far as priority and fairness are classified.
        answer::decorate(response.headers_mut(), known);
        response
    }

    async fn dispatch(
        &self,
        user: &User,
        parts: &http::request::Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Status> {
        let (route, query) = (Route::parse(&parts.uri), Query::parse(&parts.uri));
        let verb = route::verb(&parts.method, &route, &query).ok_or_else(Status::method_not_allowed)?;
        if let Route::Resource(target) = &route {
            self.counts.send_modify(|counts| *counts.of(verb) += 1);
            if let Some(code) = self.faults.take_failure(verb) {
                return injected(code, user, target, verb);
            }
        }
        auth::authorize(user, &route, verb)?;
        match &route {
            Route::Path(path) if path == control::PATH && self.config.fault_endpoint => {
                control::handle(&self.faults, &self.read(body).await?)
            }
            Route::Path(path) => {
                discovery::answer(&parts.method, path, accept(&parts.headers), &self.config.version)
            }
            Route::Resource(target) => match find(target)? {
                Found::Resource(resource) => {
                    let body = self.read(body).await?;
                    if !resource.stored && verb == "create" {
                        return reviews::answer(user, content_type(&parts.headers), &body);
                    }
                    self.resource(resource, target, verb, &query, parts, &body).await
                }
                Found::NoGroup => Ok(discovery::not_found()),
            },
        }
    }

    async fn resource(
        &self,
        resource: &'static Resource,
        target: &Target,
        verb: &str,
        query: &Query,
        parts: &http::request::Parts,
        body: &[u8],
    ) -> Result<Response<Body>, Status> {
        let subresource = target.subresource.as_deref();
        if let Some(name) = subresource.filter(|name| resource.refused.contains(name)) {
            return Err(Status::not_implemented(resource, name));
        }
        let of_part = matches!(verb, "get" | "patch" | "update");
        if !resource.verbs.contains(&verb) || (subresource.is_some() && !of_part) {
            return Err(Status::method_not_allowed());
        }
        let format =
            Format::negotiate(accept(&parts.headers), query.get("includeObject")).ok_or_else(unacceptable)?;
        let namespace = target.namespace.as_deref().filter(|_| resource.namespaced);
        let write = || Write {
            store: &self.store,
            resource,
            target,
            headers: &parts.headers,
            body,
            dry_run: !query.get("dryRun").is_empty(),
            format,
            settle: self.config.settle,
        };
        if subresource == Some("scale") {
            return scale::answer(&write(), verb);
        }
        match (verb, target.name.as_deref()) {
            ("list", _) => {
                let options = Options::parse(resource, query, false)?;
                list::list(&self.store, resource, namespace, &options, format).await
            }
            ("watch", _) => {
                let options = Options::parse(resource, query, true)?;
                Ok(self.watch(resource, namespace, &options, format))
            }
            ("get", Some(name)) => {
                let key = Key::new(resource, namespace.unwrap_or_default(), name);
                let object = self.store.object(&key).ok_or_else(|| Status::not_found(resource, name))?;
                Ok(write::shown(resource, format, StatusCode::OK, &object))
            }
            ("create", None) => write().create(),
            ("update", Some(name)) => write().update(name),
            ("patch", Some(name)) => write().patch(name),
            ("delete", Some(name)) => write().delete(name),
            ("deletecollection", None) => {
                let options = Options::parse(resource, query, false)?;
                write().delete_collection(&options.selector)
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn watch(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        options: &Options,
        format: Format,
    ) -> Response<Body> {
        let (interval, injections) = (self.config.bookmark_interval, self.faults.injections());
        Watch::new(&self.store, resource, namespace, options, format, interval, injections).answer()
    }

    async fn read(&self, body: Incoming) -> Result<Vec<u8>, Status> {
        match Limited::new(body, self.config.max_body).collect().await {
            Ok(collected) => Ok(collected.to_bytes().to_vec()),
            Err(_) => {
                let message =
                    format!("the request body is broken or larger than {} bytes", self.config.max_body);
                Err(Status::failure(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message))
            }
        }
    }
}

impl Counts {
    fn of(&mut self, verb: &str) -> &mut u64 {
        match verb {
            "get" => &mut self.gets,
            "list" => &mut self.lists,
            "watch" => &mut self.watches,
            _ => &mut self.writes,
        }
    }
}

enum Found {
    Resource(&'static Resource),
    /// Not even the group is known, so the real server has no handler at all.
    NoGroup,
}

fn find(target: &Target) -> Result<Found, Status> {
    if !RESOURCES.iter().any(|resource| resource.group == target.group) {
        return Ok(Found::NoGroup);
    }
    let Some(resource) = resources::by_plural(&target.group, &target.version, &target.resource) else {
        return Err(Status::no_resource());
    };
    match target.subresource.as_deref() {
        None => Ok(Found::Resource(resource)),
        Some("status") if resource.has_status => Ok(Found::Resource(resource)),
        Some("scale") if resource.has_scale => Ok(Found::Resource(resource)),
        Some(name) if resource.refused.contains(&name) => Ok(Found::Resource(resource)),
        Some(_) => Err(Status::no_resource()),
    }
}

// A failure on request, in the form in which the real server would send that code.
fn injected(code: StatusCode, user: &User, target: &Target, verb: &str) -> Result<Response<Body>, Status> {
    Err(match code {
        StatusCode::UNAUTHORIZED => Status::unauthorized(),
        StatusCode::FORBIDDEN => auth::forbidden(user, target, verb),
        StatusCode::GONE => Status::expired("The resourceVersion for the provided list is too old."),
        StatusCode::TOO_MANY_REQUESTS => return Ok(answer::throttled()),
        StatusCode::INTERNAL_SERVER_ERROR => {
            Status::failure(code, "InternalError", "Internal error occurred: injected fault")
        }
        StatusCode::GATEWAY_TIMEOUT => {
            Status::failure(code, "Timeout", "request did not complete within the allotted time")
        }
        _ => Status::failure(
            code,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        ),
    })
}

fn unacceptable() -> Status {
    let message =
        "only the following media types are accepted: application/json, application/json;stream=watch";
    Status::failure(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).with(Details::default())
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
