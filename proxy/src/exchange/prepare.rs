//! What a route makes of a request before a try: the cluster it goes to, its fields, its host, its path.

use std::rc::Rc;
use std::sync::Arc;

use super::forward::Tries;
use super::{Exchange, Matched};
use crate::attempt::Attempt;
use crate::local_reply::LocalReply;
use crate::message::{Authority, Known, Name, Path};
use crate::route::{BodyBuffer, Forward, HostRewrite};
use crate::upstream::LocalCluster;

impl<'x> Exchange<'x> {
    /// The cluster that the route sends the request to.
    pub(super) fn cluster(
        &mut self,
        matched: Matched<'x>,
        forward: &'x Forward,
    ) -> Result<Rc<LocalCluster>, LocalReply> {
        let local = &self.context.local;
        let chosen = forward.target.choose(&self.request, self.draw);
        let by_header = chosen.is_some_and(|chosen| chosen.by_header);
        let found = chosen.and_then(|chosen| local.clusters.get(chosen.cluster));
        let weighted = chosen.and_then(|chosen| chosen.weighted);
        let Some(cluster) = found.filter(|cluster| !by_header || cluster.policy.selectable_by_header) else {
            self.context.http().no_cluster.inc();
            return Err(LocalReply::cluster_not_found(forward.not_found_status));
        };
        self.info.cluster = Some(Arc::clone(&cluster.policy.name));
        self.matched = Some(Matched { weighted: weighted.map(|entry| &entry.mutations), ..matched });
        if let Some(host) = weighted.and_then(|entry| entry.host_rewrite.as_ref()) {
            self.rewrite_host(host.clone(), forward);
        }
        Ok(cluster)
    }

    /// How much of the request's body is kept for sending it again.
    pub(super) fn replay_limit(&self, forward: &Forward) -> usize {
        let of_listener = self.context.listener.buffer_limit;
        match forward.body_buffer {
            BodyBuffer::Listener => of_listener,
            BodyBuffer::AtMost(limit) => limit.min(of_listener),
            BodyBuffer::Exactly(limit) => limit,
        }
    }

    /// The configured changes to the request: fields, host, path.
    pub(super) fn prepare_request(&mut self, forward: &Forward) -> Result<(), LocalReply> {
        self.mutate_request()?;
        match &forward.host {
            HostRewrite::Keep | HostRewrite::Endpoint => {}
            HostRewrite::Literal(host) => self.rewrite_host(host.clone(), forward),
            HostRewrite::Header(name) => {
                if let Some(host) = self.request.get(name) {
                    let host = Authority::new(host)
                        .map_err(|_| LocalReply::invalid_header_value(Name::Other(b":authority")))?;
                    self.rewrite_host(host, forward);
                }
            }
        }
        let Some(matched) = self.matched else { return Ok(()) };
        if let Some(path) = forward.rewrite_path(&matched.route.path, &self.request.path) {
            let path =
                Path::new(path).map_err(|_| LocalReply::invalid_header_value(Name::Other(b":path")))?;
            let original = std::mem::replace(&mut self.request.path, path);
            if !self.context.manager.rules.suppress_envoy_headers {
                self.request.fields.set("x-envoy-original-path", &original);
            }
        }
        Ok(())
    }

    fn rewrite_host(&mut self, host: Authority, forward: &Forward) {
        let original = std::mem::replace(&mut self.request.authority, host);
        if forward.append_x_forwarded_host && original != self.request.authority {
            self.request.fields.append(Known::XForwardedHost, ",", &original);
        }
    }

    /// What a try tells its host, and what the log will know of it.
    pub(super) fn begin_try(&mut self, attempt: &Attempt, tries: &mut Tries<'_>) {
        tries.tried.push(attempt.host.host.id);
        self.info.attempts = tries.count;
        self.info.upstream.host = Some(attempt.host.host.address);
        if matches!(tries.forward.host, HostRewrite::Endpoint)
            && !attempt.host.host.hostname.is_empty()
            && let Ok(host) = Authority::new(attempt.host.host.hostname.as_str())
        {
            self.rewrite_host(host, tries.forward);
        }
        if self.matched.is_some_and(|matched| matched.virtual_host.include_request_attempt_count) {
            self.request.fields.set("x-envoy-attempt-count", tries.count);
        }
    }
}
