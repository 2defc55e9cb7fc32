//! The edge of the mesh: the proxy with an edge's defaults.
//!
//! Peers are not trusted: the address of the peer is the client's, its `x-forwarded-*` and
//! `x-envoy-*` headers are replaced or removed, paths are normalised, names with underscores are
//! refused, and connections, streams and the time for a head are limited, unless the file says
//! otherwise (`proxy::build::Flavor`).

use proxy::build::Flavor;

fn main() -> std::process::ExitCode {
    proxy::app::main(Flavor::Edge)
}
