//! The edge of the mesh: the proxy's library with edge defaults.

fn main() {}
