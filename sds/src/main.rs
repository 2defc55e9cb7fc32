//! The discovery service: Kubernetes EndpointSlices in, endpoints out.

fn main() {}
