//! The edge of the mesh: the proxy with an edge's defaults.
//!
//! A peer is anybody: its address is the client's, its `x-forwarded-*` and `x-envoy-*` fields are replaced or removed, paths are
//! normalised, names with underscores are refused, and connections, streams and the time for a head are limited, unless the file says
//! otherwise (`proxy::build::Flavor`). Calls the proxy's library.

use proxy::build::Flavor;

fn main() -> std::process::ExitCode {
    proxy::app::main(Flavor::Edge)
}
