//! The span of a request: where it begins, what the answer says of it, where it ends.

use super::Exchange;
use crate::message::Known;
use crate::trace;

impl Exchange<'_> {
    /// Once the route is known.
    pub(super) fn begin_span(&mut self) {
        let Some(tracing) = &self.context.manager.tracing else { return };
        let route = self.matched.map(|matched| matched.route);
        let of_route = (
            route.and_then(|route| route.sampling.as_ref()),
            route.and_then(|route| route.decorator.as_ref()),
        );
        let local = &self.context.local;
        self.span = trace::begin(tracing, local.shard, &mut self.request, of_route, local.random_bits());
    }

    /// The answer names the operation: outbound to us, inbound to the client.
    pub(super) fn decorate_response(&mut self) {
        let (Some(span), Some(tracing)) = (&mut self.span, &self.context.manager.tracing) else { return };
        if let Some(operation) = span.announce.take() {
            self.response.fields.set(Known::XEnvoyDecoratorOperation, format_args!("{operation}"));
        } else if tracing.egress
            && let Some(said) = self.response.fields.get(Known::XEnvoyDecoratorOperation)
        {
            span.operation = Some(String::from_utf8_lossy(said).as_ref().into());
            self.response.fields.remove(Known::XEnvoyDecoratorOperation);
        }
    }

    /// The request has ended.
    pub(super) fn end_span(&self) {
        let (Some(span), Some(tracing)) = (&self.span, &self.context.manager.tracing) else { return };
        span.end(tracing, self.context.local.shard, &self.info, &self.request);
    }
}
